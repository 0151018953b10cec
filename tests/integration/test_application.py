"""Datasette, an application that nobody here wrote, under load with zero code: every task accounted for."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import pytest

from .load import Caller, drive
from .otlp import Span, named
from .provision import Unavailable, datasette
from .receivers import DatadogTestAgent, accepts, free_ports, until
from .running import NO_BLOCKS, PROGRAMS, TIMEOUT, clean_environment, require

REQUESTS, CONNECTIONS = 300, 10
QUERY, ANSWER = "/_memory.json?sql=select+40%2B2&_shape=arrayfirst", b"[42]"
LOOPS = ("asyncio", "uvloop")
SERVING = "task RequestResponseCycle.run_asgi"
"""The task that uvicorn makes for each request."""

every_loop = pytest.mark.parametrize("loop", LOOPS)
every_policy = pytest.mark.parametrize(("loop", "policy"), list(product(LOOPS, ("all", "problems", "none"))))


@dataclass(frozen=True)
class Application:
    """One run: who called, what the application said of its requests, and what the receiver got."""

    callers: list[Caller]
    answered: int
    """Requests by the application's own access log."""

    spans: list[Span]

    @property
    def server_spans(self) -> list[Span]:
        return [span for span in self.spans if span.kind == "SERVER"]


Run = Callable[..., Application]


@pytest.fixture(scope="module")
def served(agent: DatadogTestAgent) -> Run:
    """Datasette on uvicorn under `opentelemetry-instrument`, once for each loop and policy."""

    @cache
    def run(loop: str, policy: str = "all", server_spans: bool = False) -> Application:
        require("opentelemetry.instrumentation.asgi", loop)
        try:
            packages = datasette()
        except Unavailable as reason:
            pytest.skip(f"no datasette here: {reason}")
        agent.clear()
        environment = agent.exporter_environment("http/protobuf") | {
            "PYTHONPATH": f"{packages}:{PROGRAMS}",
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "asyncio",
            "OTEL_PYTHON_ASYNCIO_ROOT_TASKS": policy,
            **NO_BLOCKS,
            "SERVER_SPANS": "1" if server_spans else "",
        }
        callers, said = serve(loop, clean_environment(environment))
        return Application(callers, said.count('HTTP/1.1" 200 OK'), agent.spans())

    return run


def serve(loop: str, environment: dict[str, str]) -> tuple[list[Caller], str]:
    """Starts it, drives it, ends it as Ctrl+C does (after SIGTERM uvicorn dies by it, and nothing is flushed)."""
    (port,) = free_ports(1)
    launcher = str(Path(sys.executable).with_name("opentelemetry-instrument"))
    command = [launcher, sys.executable, "-m", "uvicorn", "datasette_app:app", "--loop", loop, "--port", str(port)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            until(lambda: _listens(port, process), TIMEOUT, "datasette listening")
            callers = drive(port, REQUESTS, CONNECTIONS, QUERY, ANSWER)
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=TIMEOUT)
        except BaseException as failure:
            process.kill()
            failure.add_note(f"datasette said: {process.communicate()[0][-4000:]}")
            raise
    assert process.returncode == 0, f"datasette ended with {process.returncode}:\n{said[-4000:]}"
    return callers, said


def _listens(port: int, process: subprocess.Popen[str]) -> bool:
    assert process.poll() is None, "it ended"
    return accepts(port)


@every_loop
def test_the_application_answers_every_request(served: Run, loop: str) -> None:
    assert served(loop).answered == REQUESTS


@every_loop
def test_each_request_is_one_task(served: Run, loop: str) -> None:
    """The application's own count of its requests is ours of the tasks that served them."""
    application = served(loop)
    assert len(named(application.spans, SERVING)) == application.answered


def is_task(span: Span) -> bool:
    return "asyncio.task.outcome" in span.attributes


@every_loop
def test_no_task_is_lost_and_none_told_twice(served: Run, loop: str) -> None:
    """Task ids are a counter of the process: each number up to the last has one span."""
    ids = Counter(span.attributes["asyncio.task.id"] for span in served(loop).spans if is_task(span))
    assert (set(ids.values()), len(ids)) == ({1}, max(ids))


@every_loop
def test_every_task_ended_and_none_went_wrong(served: Run, loop: str) -> None:
    outcomes = {span.attributes["asyncio.task.outcome"] for span in served(loop).spans if is_task(span)}
    assert outcomes <= {"success", "cancellation"}


@every_loop
def test_a_healthy_application_has_no_problem(served: Run, loop: str) -> None:
    assert [span.name for span in served(loop).spans if "asyncio.problem" in span.attributes] == []


@every_policy
def test_each_request_has_one_server_span(served: Run, loop: str, policy: str) -> None:
    application = served(loop, policy, server_spans=True)
    assert len(application.server_spans) == application.answered == REQUESTS


@every_policy
def test_the_caller_s_trace_is_kept(served: Run, loop: str, policy: str) -> None:
    """Every SERVER span is the remote child of the request's `traceparent`, whatever becomes of root tasks."""
    application = served(loop, policy, server_spans=True)
    callers = {(caller.trace_id, caller.span_id) for caller in application.callers}
    assert {(span.trace_id, span.parent_id) for span in application.server_spans} == callers
    assert all(span.has_remote_parent for span in application.server_spans)


@every_loop
def test_each_server_span_has_the_split_of_its_request(served: Run, loop: str) -> None:
    application = served(loop, "all", server_spans=True)
    segments = [span for span in application.spans if span.attributes.get("asyncio.task.kind") == "root_segment"]
    parents = Counter((segment.trace_id, segment.parent_id) for segment in segments)
    assert parents == {(server.trace_id, server.span_id): 1 for server in application.server_spans}
