"""What `otel-asyncio run` costs: processor time of a real server for each request, and how long it takes to start.

`python benchmarks/command.py`, with the package and its extra `test`. Traced and bare run in turn; figures are ratios
and differences within one run, so that a busy machine does both alike.
"""

from __future__ import annotations

import http.client
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PAIRS = 5
REQUESTS = 3000
STARTS = 9
SERVICE = """
import asyncio
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

async def look_up(seconds):
    await asyncio.sleep(seconds)

async def answer(request):
    async with asyncio.TaskGroup() as group:
        group.create_task(look_up(0))
        group.create_task(look_up(0.0005))
    return PlainTextResponse("found")

app = Starlette(routes=[Route("/", answer)])
"""
SCRIPT = "import asyncio\nasync def main(): pass\nasyncio.run(main())\n"
RUN = [sys.executable, "-m", "otel_asyncio", "run", "--no-report"]


def processor_time(command: list[str], folder: Path, port: int | None = None) -> float:
    """Of the process until its end; with a port, it is a server and gets its requests first."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=folder, env=os.environ | {"TMPDIR": str(folder)}, **quiet)
    if port is not None:
        drive(port)
        process.send_signal(signal.SIGINT)
    process.wait(120)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def drive(port: int) -> None:
    deadline = time.monotonic() + 60
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    done = 0
    while done < REQUESTS:
        try:
            connection.request("GET", "/")
            assert connection.getresponse().read() == b"found"
            done += 1
        except ConnectionError:
            assert time.monotonic() < deadline, "the server did not start"
            connection.close()
            time.sleep(0.05)
    connection.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def server(prefix: list[str], folder: Path, loop: str) -> float:
    port = free_port()
    words = ["-m", "uvicorn", "service:app", "--loop", loop, "--port", str(port), "--no-access-log"]
    return processor_time([*prefix, *words], folder, port)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "service.py").write_text(SERVICE)
        (folder / "script.py").write_text(SCRIPT)
        starts = {}
        for what, command in (("bare", [sys.executable, "script.py"]), ("traced", [*RUN, "script.py"])):
            starts[what] = min(processor_time(command, folder) for _ in range(STARTS))
        print(f"start and end: bare {starts['bare']:.3f} s, traced {starts['traced']:.3f} s")
        for loop in ("asyncio", "uvloop"):
            pairs = [(server([sys.executable], folder, loop), server(RUN, folder, loop)) for _ in range(PAIRS)]
            extra = starts["traced"] - starts["bare"]
            ratio = statistics.median((traced - extra) / bare for bare, traced in pairs)
            added = statistics.median((traced - extra - bare) / REQUESTS for bare, traced in pairs)
            print(f"uvicorn on {loop}, {REQUESTS} requests of two tasks: {ratio:.2f}x, +{added * 1e6:.0f} µs a request")


if __name__ == "__main__":
    main()
