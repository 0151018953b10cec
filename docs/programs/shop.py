import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import uvicorn
from around import Database, get, get_at_once
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

database = Database({"price": 0.3})
till = asyncio.Lock()
printer = ThreadPoolExecutor(max_workers=1)


async def price(request: Request) -> PlainTextResponse:
    reader, writer = await asyncio.open_connection(*database.server_address)
    writer.write(b"price\n")
    row = await reader.readline()
    writer.close()
    return PlainTextResponse(row)


async def pay(request: Request) -> PlainTextResponse:
    async with till:
        await asyncio.sleep(0.2)
    return PlainTextResponse("paid")


def print_invoice() -> str:
    time.sleep(0.2)
    return "printed"


async def invoice(request: Request) -> PlainTextResponse:
    return PlainTextResponse(await asyncio.get_running_loop().run_in_executor(printer, print_invoice))


async def chart(request: Request) -> PlainTextResponse:
    time.sleep(0.3)
    return PlainTextResponse("drawn")


def customers(address: tuple[str, int]) -> None:
    get(address, "/price")
    get_at_once(address, "/pay", "/pay")
    get_at_once(address, "/invoice", "/invoice")
    get(address, "/chart")
    server.should_exit = True


async def main() -> None:
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    threading.Thread(target=customers, args=(server.servers[0].sockets[0].getsockname(),)).start()
    await serving


app = Starlette(routes=[Route(f"/{answer.__name__}", answer) for answer in (price, pay, invoice, chart)])
traced = OpenTelemetryMiddleware(app, exclude_spans=["send", "receive"])
server = uvicorn.Server(uvicorn.Config(traced, port=0, log_level="warning"))
asyncio.run(main())
