"""Slow requests on servers that nobody here wrote: the trace of each tells why it was slow."""

from __future__ import annotations

import http.client
import json
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
}
PROGRAM = PROGRAMS / "slow_service.py"
PATHS = ("/dependency", "/lock", "/lock", "/lock", "/pool", "/pool", "/pool", "/deadline", "/cancelled")
SLOW = 0.3
BLOCKS = {"OTEL_PYTHON_ASYNCIO_BLOCK_THRESHOLD": "200"}
KINDS = ("task", "await", "executor", "block", "cancel", "timeout", "asyncio.stuck", "asyncio.deadlock")
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
        callers, out, errors = drive_service(*command, environment=BLOCKS, drive=ask_all)
        return Answered(callers, json.loads(out), errors)

    return run


def ask_all(port: str) -> list[tuple[str, Caller]]:
    with ThreadPoolExecutor(len(PATHS)) as threads:
        callers = list(threads.map(lambda path: ask(int(port), path), PATHS))
    return [*callers, ask(int(port), "/block")]  # alone: it would be in the way of all others


def ask(port: int, path: str) -> tuple[str, Caller]:
    caller = Caller()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    connection.request("GET", path, headers=caller.headers)
    assert connection.getresponse().read() == b"found"
    connection.close()
    return path, caller


def targets(spans: list[dict[str, Any]]) -> set[str]:
    return {span["attributes"]["asyncio.await.target"] for span in spans}


@every_app
def test_a_slow_dependency_is_a_wait_for_its_answer(answered: Any, app: str, loop: str) -> None:
    waits = answered(app, loop).of("/dependency", "await")
    (slow,) = [span for span in waits if span["attributes"]["asyncio.await.target"] == "StreamReader.readline"]
    seen = slow["attributes"]
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


@every_app
def test_a_handler_that_blocks_the_loop_is_told_by_the_line_it_stood_on(answered: Any, app: str, loop: str) -> None:
    run = answered(app, loop)
    (block,) = run.of("/block", "block")
    seen = block["attributes"]
    assert (seen["code.file.path"], seen["code.line.number"]) == (str(PROGRAM), line_of(PROGRAM, "# the block"))
    assert block["end_time"] > block["start_time"]
    assert run.of("/block", "await") == []


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
def test_each_request_has_the_problem_that_it_has_and_no_other(answered: Any, app: str, loop: str) -> None:
    run = answered(app, loop)
    found = {
        path: {
            word for kind in KINDS for span in run.of(path, kind) if (word := span["attributes"].get("asyncio.problem"))
        }
        for path, _ in run.callers
    }
    problems = {"/pool": {"executor_saturated"}, "/block": {"loop_blocked"}}
    assert found == dict.fromkeys(PATHS, set()) | problems
    assert run.said.count("executor_saturated") == 2


@every_app
def test_every_wait_of_a_request_lies_in_its_trace_under_its_server_span(answered: Any, app: str, loop: str) -> None:
    run = answered(app, loop)
    for path in ("/dependency", "/lock", "/pool"):
        by_id = {span["context"]["span_id"]: span for span in run.spans}
        for span in [*run.of(path, "await"), *run.of(path, "executor")]:
            assert by_id[span["parent_id"]]["kind"] in ("SpanKind.SERVER", "SpanKind.INTERNAL")
