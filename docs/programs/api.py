import asyncio
import os
import signal
import socket
import threading

from aiohttp import web
from around import Database, get, hang_up, load, while_at
from opentelemetry.instrumentation.aiohttp_server import AioHttpServerInstrumentor

AioHttpServerInstrumentor().instrument()
database = Database({"page": 0.005, "report": 60, "balance": 60, "export": 60})
listener = socket.create_server(("127.0.0.1", 0), backlog=100)
routes = web.RouteTableDef()
exports: set[asyncio.Task] = set()


async def query(table: str, patience: float | None = None) -> bytes:
    reader, writer = await asyncio.open_connection(*database.server_address)
    try:
        async with asyncio.timeout(patience):
            writer.write(f"{table}\n".encode())
            return await reader.readline()
    finally:
        writer.close()


@routes.get("/page")
async def page(request: web.Request) -> web.Response:
    return web.Response(body=await query("page"))


@routes.get("/report")
async def report(request: web.Request) -> web.Response:
    return web.Response(body=await query("report"))


@routes.get("/balance")
async def balance(request: web.Request) -> web.Response:
    try:
        return web.Response(body=await query("balance", patience=0.3))
    except TimeoutError:
        return web.Response(status=504)


@routes.get("/export")
async def export(request: web.Request) -> web.Response:
    exports.add(asyncio.current_task())
    return web.Response(body=await query("export"))


def stop(over: asyncio.Event) -> None:
    for task in exports:
        task.cancel()
    over.set()


def customers(address: tuple[str, int]) -> None:
    load(address, "/page")
    hang_up(address, "/report", database, "report")
    print("balance:", get(address, "/balance"))
    while_at(database, "export", os.kill, os.getpid(), signal.SIGTERM)
    print("export:", get(address, "/export"))


async def main() -> None:
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop, over)
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    threading.Thread(target=customers, args=(listener.getsockname(),)).start()
    await over.wait()
    await runner.cleanup()


asyncio.run(main())
