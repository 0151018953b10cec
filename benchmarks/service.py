"""What tracing takes of a service under load: requests a second and the slowest hundredth.

    python benchmarks/service.py [--sets N] [--rounds N] [--seconds S] [--loop uvloop]

FastAPI on uvicorn, and aiohttp, answering a request after two look-ups in tasks of their own. Three processes each: as
it is, with contrib's server instrumentation, and with this project added to that; spans through a batch processor to
nowhere. The load, kept-alive connections that ask again at once, goes to one of them at a time, in turns; ratios are of
neighbours. Needs this project and its extra `test`.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import subprocess
import sys
import time
from typing import Any

from waits import arguments

APPS = ("fastapi", "aiohttp")
VARIANTS = ("bare", "contrib", "ours")
CONNECTIONS = 32
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
_LENGTH = re.compile(rb"content-length: (\d+)\r\n", re.IGNORECASE)


async def look_up() -> None:
    await asyncio.sleep(0.001)


async def work() -> str:
    await asyncio.gather(asyncio.create_task(look_up()), asyncio.create_task(look_up()))
    return "found"


def serve(app: str, variant: str, loop: str) -> None:
    """One service, in its process; says its port."""
    provider = None if variant == "bare" else _provider()
    if variant == "ours":
        import otel_asyncio

        otel_asyncio.AsyncioInstrumentor().instrument(tracer_provider=provider)
    with asyncio.Runner(loop_factory=_new_loop(loop)) as runner:
        runner.run((_fastapi if app == "fastapi" else _aiohttp)(provider))


def _new_loop(kind: str) -> Any:
    if kind == "asyncio":
        return asyncio.new_event_loop
    import uvloop

    return uvloop.new_event_loop


def _provider() -> Any:
    from subjects import Exporting

    return Exporting().provider


async def _fastapi(provider: Any) -> None:
    import uvicorn
    from fastapi import FastAPI
    from fastapi.responses import PlainTextResponse

    app = FastAPI()

    @app.get("/", response_class=PlainTextResponse)
    async def answer() -> str:
        return await work()

    if provider is not None:
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

        FastAPIInstrumentor.instrument_app(app, tracer_provider=provider)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", access_log=False))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)
    await serving


async def _aiohttp(provider: Any) -> None:
    if provider is not None:
        from opentelemetry.instrumentation.aiohttp_server import AioHttpServerInstrumentor

        AioHttpServerInstrumentor().instrument(tracer_provider=provider)
    from aiohttp import web

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=await work())

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


class Asking(asyncio.Protocol):
    """One connection that asks again as soon as it is answered, until the time is up."""

    def __init__(self, ends: float) -> None:
        self.ends, self.took, self.received = ends, [], b""
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._ask()

    def _ask(self) -> None:
        self.asked = time.perf_counter()
        self.transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head + b"\r\n")
        if not found or length is None or len(body) < int(length[1]):
            return
        assert body == b"found", self.received
        self.received = b""
        now = time.perf_counter()
        self.took.append(now - self.asked)
        if now < self.ends:
            self._ask()
        else:
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.done.set_result(None)


async def load(port: int, seconds: float) -> tuple[float, float]:
    """Requests a second, and how long all but the slowest hundredth took at most, in milliseconds."""
    loop = asyncio.get_running_loop()
    start = time.perf_counter()
    pairs = [
        await loop.create_connection(lambda: Asking(start + seconds), "127.0.0.1", port) for _ in range(CONNECTIONS)
    ]
    await asyncio.gather(*(asking.done for _, asking in pairs))
    took = [each for _, asking in pairs for each in asking.took]
    return len(took) / (time.perf_counter() - start), statistics.quantiles(took, n=100)[98] * 1000


Found = dict[str, list[tuple[float, float]]]


def measure(app: str, options: argparse.Namespace, found: Found) -> None:
    """One set of rounds."""
    command = [sys.executable, __file__, "--loop", options.loop, "--serve", app]
    servers = {name: subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in VARIANTS}
    try:
        ports = {name: int(server.stdout.readline()) for name, server in servers.items() if server.stdout}
        for number in range(-1, options.rounds):
            for name in VARIANTS[:: 1 if number % 2 else -1]:
                figures = asyncio.run(load(ports[name], options.seconds))
                if number >= 0:  # the first round warms up
                    found[name].append(figures)
    finally:
        for server in servers.values():
            server.kill()
            server.wait()


def compare(app: str, options: argparse.Namespace) -> None:
    found: Found = {name: [] for name in VARIANTS}
    for _ in range(options.sets):
        measure(app, options, found)
    for name, before in zip(VARIANTS, ("", "bare", "contrib"), strict=True):
        rate, slowest = (statistics.median(figures) for figures in zip(*found[name], strict=True))
        ratio = ""
        if before:
            ratios = [mine[0] / other[0] for mine, other in zip(found[name], found[before], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            ratio = f"{middle:.3f} of {before} ({low:.3f} … {high:.3f})"
        low, _, high = statistics.quantiles([slow for _, slow in found[name]], n=4)
        print(f"| {app} | {name} | {rate:,.0f}/s | {ratio} | {slowest:.1f} ms ({low:.1f} … {high:.1f}) |", flush=True)


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(rounds=3)
    parser.add_argument("--sets", type=int, default=8, help="of rounds, each with processes of its own")
    parser.add_argument("--seconds", type=float, default=1, help="of each round")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--serve", nargs=2, help="used by itself")
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve, options.loop)
        return
    print("| | | requests | of | p99 |\n| --- | --- | --: | --- | --: |")
    for app in APPS:
        compare(app, options)


if __name__ == "__main__":
    main()
