"""Row 26: a client's session for each request, and never closed. The trace has the tasks that leaked them."""

import asyncio

import aiohttp
from _show import show
from aiohttp import web


async def price(request: web.Request) -> web.Response:
    return web.Response(text="12.50")


async def fetch(url: str) -> str:
    session = aiohttp.ClientSession()
    response = await session.get(url)
    return await response.text()


async def fetch_with(session: aiohttp.ClientSession, url: str) -> str:
    async with session.get(url) as response:
        return await response.text()


async def serve() -> tuple[web.AppRunner, str]:
    app = web.Application()
    app.router.add_get("/price", price)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    return runner, f"http://{host}:{port}/price"


async def wrong() -> None:
    runner, url = await serve()
    print(await asyncio.gather(fetch(url), fetch(url)))
    await runner.cleanup()


async def right() -> None:
    runner, url = await serve()
    async with aiohttp.ClientSession() as session:
        print(await asyncio.gather(fetch_with(session, url), fetch_with(session, url)))
    await runner.cleanup()


if __name__ == "__main__":
    show(wrong, right)
