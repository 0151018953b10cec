"""Mixed load on servers that nobody here wrote, in which all is well: no problem is told.

`OTEL_ASYNCIO_LOAD_SECONDS=600`: for so long, and with the default threshold for a blocked loop.
"""

from __future__ import annotations

import http.client
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, product

import pytest

from .load import Caller
from .running import TIMEOUT, drive_service, program, require

APPS = {
    "aiohttp": ("aiohttp", "opentelemetry.instrumentation.aiohttp_server"),
    "starlette": ("starlette", "uvicorn", "opentelemetry.instrumentation.asgi"),
    "fastapi": ("fastapi", "uvicorn", "opentelemetry.instrumentation.fastapi"),
}
SECONDS = float(os.environ.get("OTEL_ASYNCIO_LOAD_SECONDS", "0"))
# Where many tests share the machine, a step of a healthy program takes what the machine gives.
SETTINGS = {} if SECONDS else {"OTEL_PYTHON_ASYNCIO_BLOCK_THRESHOLD": "1000"}


def asks(port: int, paths: list[str], first: int, seconds: float) -> int:
    """One connection that goes round, with a pause after each answer; how many it got."""
    connection, answers = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT), 0
    ends = time.monotonic() + seconds
    for path in cycle(paths[first:] + paths[:first]):
        connection.request("GET", path, headers=Caller().headers)
        assert connection.getresponse().read() == b"found"
        answers += 1
        if time.monotonic() > ends and answers >= len(paths):
            break
        time.sleep(0.02)
    connection.close()
    return answers


def ask_everything(line: str) -> int:
    """A connection for each of the paths that the service has told after its port; how many answers they got."""
    port, *paths = line.split()
    with ThreadPoolExecutor(len(paths)) as threads:
        lots = [threads.submit(asks, int(port), paths, first, SECONDS) for first in range(len(paths))]
        return sum(lot.result() for lot in lots)


@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.parametrize(("app", "loop"), list(product(APPS, ("asyncio", "uvloop"))))
def test_mixed_load_in_which_all_is_well_reports_no_problem(app: str, loop: str) -> None:
    require(*APPS[app], loop)
    command = program("healthy_service.py", app, "--loop", loop)
    answers, out, errors = drive_service(*command, environment=SETTINGS, drive=ask_everything)
    spans, problems = json.loads(out)
    print(f"{app} on {loop}: {answers} answers, {spans} spans, {len(problems)} problems")
    assert [(each["name"], each["attributes"]) for each in problems] == []
    assert "otel_asyncio" not in errors
    assert spans > answers
