"""Slow requests on servers that nobody here wrote: the trace of each tells why it was slow."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import pytest

from .load import Caller
from .running import PROGRAMS, TIMEOUT, drive_service, line_of, program, require

APPS = {
    "aiohttp": ("aiohttp", "opentelemetry.instrumentation.aiohttp_server"),
    "starlette": ("starlette", "uvicorn", "opentelemetry.instrumentation.asgi"),
    "fastapi": ("fastapi", "uvicorn", "opentelemetry.instrumentation.fastapi"),
}
PROGRAM = PROGRAMS / "slow_service.py"
PATHS = ("/dependency", "/lock", "/lock", "/lock", "/pool", "/pool", "/pool", "/deadline", "/cancelled")
THREADS = ("/threads", "/threads", "/threads")
"""Of FastAPI alone: a function that is not asynchronous runs in anyio's pool."""

SLOW = 0.3
SOON = {"OTEL_PYTHON_ASYNCIO_STUCK_AFTER": "400"}
BLOCKS = {"OTEL_PYTHON_ASYNCIO_BLOCK_THRESHOLD": "200"}
KINDS = ("task", "await", "executor", "block", "cancel", "timeout", "asyncio.stuck", "asyncio.deadlock")
MIDDLEWARE = "MemoryObjectReceiveStream.receive"
"""How a middleware of FastAPI's waits for what is within it."""

every_app = pytest.mark.parametrize(("app", "loop"), list(product(APPS, ("asyncio", "uvloop"))))


@dataclass(frozen=True)
class Answered:
    """What was asked and what the service recorded, as the SDK writes spans."""

    callers: list[tuple[str, Caller]]
    spans: list[dict[str, Any]]
    said: str

    def of(self, path: str, kind: str) -> list[dict[str, Any]]:
        """The spans of this kind (the first word of their names) in the traces of the requests to a path."""
        traces = {f"0x{caller.trace_id}" for asked, caller in self.callers if asked == path}
        return [s for s in self.spans if s["context"]["trace_id"] in traces and s["name"].split(" ")[0] == kind]


@pytest.fixture(scope="module")
def answered() -> Callable[[str, str], Answered]:
    """The service asked for everything at once; one run for each server and loop."""

    @cache
    def run(app: str, loop: str) -> Answered:
        require(*APPS[app], loop)
        command = program("slow_service.py", app, "--loop", loop)
        paths = PATHS + THREADS * (app == "fastapi")
        callers, out, errors = drive_service(*command, environment=BLOCKS, drive=lambda port: ask_all(int(port), paths))
        return Answered(callers, json.loads(out), errors)

    return run


@pytest.fixture(scope="module")
def hung() -> Callable[[str, str], Answered]:
    """The service asked for what hangs, and let go of it when that is told; once for each server and loop."""

    @cache
    def run(app: str, loop: str) -> Answered:
        require(*APPS[app], loop)
        command = program("slow_service.py", app, "--loop", loop)
        caller, out, errors = drive_service(*command, environment=SOON, drive=lambda port: ask(int(port), "/hang"))
        return Answered([caller], json.loads(out), errors)

    return run


def ask_all(port: int, paths: tuple[str, ...]) -> list[tuple[str, Caller]]:
    with ThreadPoolExecutor(len(paths)) as threads:
        callers = list(threads.map(lambda path: ask(port, path), paths))
    callers.append(ask(port, "/block"))  # alone: it would be in the way of all others
    return [*callers, abandon(port, "/abandoned")]


def ask(port: int, path: str) -> tuple[str, Caller]:
    caller = Caller()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    connection.request("GET", path, headers=caller.headers)
    assert connection.getresponse().read() == b"found"
    connection.close()
    return path, caller


def abandon(port: int, path: str) -> tuple[str, Caller]:
    """A caller that goes away without an answer."""
    caller = Caller()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    connection.request("GET", path, headers=caller.headers)
    time.sleep(SLOW)
    connection.close()
    return path, caller


def targets(spans: list[dict[str, Any]]) -> set[str]:
    return {span["attributes"]["asyncio.await.target"] for span in spans}


@every_app
def test_a_slow_dependency_is_a_wait_for_its_answer(answered: Any, app: str, loop: str) -> None:
    waits = answered(app, loop).of("/dependency", "await")
    # A crowded machine may make another wait of it that is long as well.
    said = [w["attributes"] for w in waits if w["attributes"]["asyncio.await.target"] == "StreamReader.readline"]
    seen = max(said, key=lambda each: each["asyncio.await.idle_time"])
    assert seen["asyncio.await.idle_time"] >= SLOW * 0.9 > seen["asyncio.await.scheduled_time"]
    assert (seen["code.file.path"], seen["code.line.number"]) == (str(PROGRAM), line_of(PROGRAM, "# the dependency"))
    assert "executor_saturated" not in str(waits)


@every_app
def test_a_contended_lock_names_who_held_it_and_links_to_them(answered: Any, app: str, loop: str) -> None:
    run = answered(app, loop)
    waits = [s for s in run.of("/lock", "await") if s["attributes"]["asyncio.await.target"] == "Lock.acquire"]
    assert len(waits) == 2
    requests = {f"0x{caller.trace_id}" for path, caller in run.callers if path == "/lock"}
    for span in waits:
        seen = span["attributes"]
        assert seen["asyncio.resource.type"] == "Lock"
        assert seen["asyncio.resource.holder.line"] == line_of(PROGRAM, "# the lock")
        assert seen["asyncio.resource.holder.held_time"] >= SLOW * 0.9
        linked = [item["context"] for item in span["links"] if item["attributes"]["asyncio.link.type"] == "holder"]
        assert len(linked) == 1
        assert linked[0]["trace_id"] in requests - {span["context"]["trace_id"]}


@every_app
def test_a_saturated_pool_is_told_by_the_work_that_was_queued(answered: Any, app: str, loop: str) -> None:
    work = answered(app, loop).of("/pool", "executor")
    queued = sorted(span["attributes"]["asyncio.executor.queued_time"] for span in work)
    assert len(work) == 3
    assert queued[0] < SLOW <= queued[1] + 0.05
    assert [span["attributes"].get("asyncio.problem") for span in work].count("executor_saturated") == 2
    assert all(span["attributes"]["asyncio.executor.run_time"] >= SLOW * 0.9 for span in work)


@pytest.mark.parametrize("loop", ("asyncio", "uvloop"))
def test_a_wait_for_a_thread_is_told_from_the_work_in_it(answered: Any, loop: str) -> None:
    """The pool in which FastAPI runs functions that are not asynchronous."""
    waits = answered("fastapi", loop).of("/threads", "await")
    work = [span for span in waits if targets([span]) == {"anyio.to_thread.run_sync"}]
    queued = [span for span in waits if targets([span]) == {"CapacityLimiter.acquire"}]
    assert len(work) == 3
    assert all(span["attributes"]["asyncio.await.idle_time"] < 2 * SLOW for span in work)
    assert len({span["context"]["trace_id"] for span in queued}) >= 2


@every_app
def test_a_handler_that_blocks_the_loop_is_told_by_the_line_it_stood_on(answered: Any, app: str, loop: str) -> None:
    run = answered(app, loop)
    (block,) = run.of("/block", "block")
    seen = block["attributes"]
    assert (seen["code.file.path"], seen["code.line.number"]) == (str(PROGRAM), line_of(PROGRAM, "# the block"))
    assert block["end_time"] > block["start_time"]
    assert targets(run.of("/block", "await")) <= {MIDDLEWARE}


@every_app
def test_a_deadline_that_passed_lies_in_its_requests_trace(answered: Any, app: str, loop: str) -> None:
    (timeout,) = answered(app, loop).of("/deadline", "timeout")
    seen = timeout["attributes"]
    assert (seen["code.line.number"], seen["asyncio.timeout.outcome"]) == (
        line_of(PROGRAM, "# the deadline"),
        "handled",
    )
    assert seen["asyncio.await.target"] == "asyncio.sleep"


@every_app
def test_a_cancellation_lies_in_its_requests_trace(answered: Any, app: str, loop: str) -> None:
    (cancel,) = answered(app, loop).of("/cancelled", "cancel")
    seen = cancel["attributes"]
    assert (seen["asyncio.cancel.origin"], seen["asyncio.cancel.outcome"]) == ("explicit", "delivered")
    assert (seen["asyncio.cancel.by.file"], seen["asyncio.cancel.by.line"]) == (
        str(PROGRAM),
        line_of(PROGRAM, "# the cancellation"),
    )


@every_app
def test_a_request_that_the_server_ends_says_so_in_its_trace(answered: Any, app: str, loop: str) -> None:
    run = answered(app, loop)
    cancels = run.of("/abandoned", "cancel")
    server = "aiohttp" if app == "aiohttp" else "uvicorn"
    for span in cancels:
        seen = span["attributes"]
        assert seen["asyncio.cancel.origin"] == "explicit"
        assert seen["asyncio.cancel.outcome"] in ("delivered", "handled")  # uvicorn catches it and logs it
        assert f"/{server}/" in seen["asyncio.cancel.by.file"]
    said = [span["attributes"] for span in cancels]  # a task that only awaited the other says of none where it hit
    hit = {(each.get("asyncio.cancel.at.file"), each.get("asyncio.cancel.at.line")) for each in said}
    assert (str(PROGRAM), line_of(PROGRAM, "# the end")) in hit


@every_app
def test_a_request_that_hangs_says_so_in_its_trace_while_it_hangs(hung: Any, app: str, loop: str) -> None:
    """It would hang for ever, were it not told: that is what its answer waits for."""
    run = hung(app, loop)
    (stuck,) = [span for span in run.spans if span["name"] == "asyncio.stuck"]
    assert run.of("/hang", "asyncio.stuck") == [stuck]
    seen = stuck["attributes"]
    assert (seen["code.file.path"], seen["code.line.number"]) == (str(PROGRAM), line_of(PROGRAM, "# the hang"))
    assert (seen["asyncio.await.target"], seen["asyncio.stuck.count"]) == ("Event.wait", 1)
    (server,) = [s for s in run.spans if s["kind"] == "SpanKind.SERVER"]
    assert server["context"]["trace_id"] == stuck["context"]["trace_id"]
    assert server["start_time"] <= stuck["start_time"] < stuck["end_time"] < server["end_time"]


@every_app
def test_each_request_has_the_problem_that_it_has_and_no_other(answered: Any, app: str, loop: str) -> None:
    run = answered(app, loop)
    found = {
        path: {
            word for kind in KINDS for span in run.of(path, kind) if (word := span["attributes"].get("asyncio.problem"))
        }
        for path, _ in run.callers
    }
    expected = dict.fromkeys((path for path, _ in run.callers), set[str]())
    problems = {"/pool": {"executor_saturated"}, "/block": {"loop_blocked"}}
    assert found == expected | problems
    assert run.said.count("executor_saturated") == 2


@every_app
def test_every_wait_of_a_request_lies_in_its_trace_under_its_server_span(answered: Any, app: str, loop: str) -> None:
    run = answered(app, loop)
    for path in ("/dependency", "/lock", "/pool"):
        by_id = {span["context"]["span_id"]: span for span in run.spans}
        for span in [*run.of(path, "await"), *run.of(path, "executor")]:
            assert by_id[span["parent_id"]]["kind"] in ("SpanKind.SERVER", "SpanKind.INTERNAL")
