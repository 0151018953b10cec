"""aiohttp, and Starlette on uvicorn, under load: every task accounted for, and the caller's trace kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import product

import pytest

from .otlp import named
from .receivers import DatadogTestAgent
from .running import require
from .served import Served, serve

REQUESTS, CONNECTIONS = 500, 20
FEW_REQUESTS, FEW_CONNECTIONS = 50, 5
APPS = {
    "aiohttp": ("aiohttp", "opentelemetry.instrumentation.aiohttp_server"),
    "starlette": ("starlette", "uvicorn", "opentelemetry.instrumentation.asgi"),
}
LOOPS = ("asyncio", "uvloop")

Run = Callable[[str, str, str], Served]
every_way = pytest.mark.parametrize(("app", "loop", "way"), list(product(APPS, LOOPS, ("instrumentor", "factory"))))
every_policy = pytest.mark.parametrize(
    ("app", "loop", "policy"), list(product(APPS, LOOPS, ("all", "problems", "none")))
)
every_app = pytest.mark.parametrize(("app", "loop"), list(product(APPS, LOOPS)))


@pytest.fixture(scope="module")
def loaded(agent: DatadogTestAgent) -> Run:
    """Hundreds of requests over kept-alive connections, no other instrumentation; once for each way."""

    @cache
    def run(app: str, loop: str, way: str) -> Served:
        require(*APPS[app], loop)
        return serve(agent, [app, "--loop", loop, "--way", way], REQUESTS, CONNECTIONS)

    return run


@pytest.fixture(scope="module")
def instrumented(agent: DatadogTestAgent) -> Run:
    """With contrib's server spans, once for each policy for root tasks."""

    @cache
    def run(app: str, loop: str, policy: str) -> Served:
        require(*APPS[app], loop)
        arguments = [app, "--loop", loop, "--root-tasks", policy, "--server-spans"]
        return serve(agent, arguments, FEW_REQUESTS, FEW_CONNECTIONS)

    return run


@every_way
def test_the_service_handles_every_request(loaded: Run, app: str, loop: str, way: str) -> None:
    assert loaded(app, loop, way).counts == {"requests": REQUESTS, "look_ups": REQUESTS}


@every_way
def test_each_request_has_one_span_of_its_child_task(loaded: Run, app: str, loop: str, way: str) -> None:
    served = loaded(app, loop, way)
    assert len(served.look_ups) == served.counts["requests"]


@every_way
def test_every_child_task_ended_well(loaded: Run, app: str, loop: str, way: str) -> None:
    outcomes = {span.attributes["asyncio.task.outcome"] for span in loaded(app, loop, way).look_ups}
    assert outcomes == {"success"}


@every_way
def test_no_span_is_sent_twice(loaded: Run, app: str, loop: str, way: str) -> None:
    spans = loaded(app, loop, way).spans
    assert len({span.span_id for span in spans}) == len(spans)


@every_way
def test_only_the_service_s_own_main_is_of_kind_main(loaded: Run, app: str, loop: str, way: str) -> None:
    spans = loaded(app, loop, way).spans
    assert {span.name for span in spans if span.attributes.get("asyncio.task.kind") == "main"} == {"task serve"}


@pytest.mark.parametrize("loop", LOOPS)
def test_every_connection_of_aiohttp_is_a_task(loaded: Run, loop: str) -> None:
    """On newer Pythons aiohttp makes these by `asyncio.Task(...)`, past every task factory."""
    spans = loaded("aiohttp", loop, "instrumentor").spans
    assert len(named(spans, "task RequestHandler.start")) == CONNECTIONS


@pytest.mark.parametrize(("loop", "way"), list(product(LOOPS, ("instrumentor", "factory"))))
def test_every_request_of_uvicorn_is_a_task(loaded: Run, loop: str, way: str) -> None:
    spans = loaded("starlette", loop, way).spans
    assert len(named(spans, "task RequestResponseCycle.run_asgi")) == REQUESTS


@every_policy
def test_each_request_has_one_server_span(instrumented: Run, app: str, loop: str, policy: str) -> None:
    assert len(instrumented(app, loop, policy).server_spans) == FEW_REQUESTS


@every_policy
def test_a_server_span_is_a_child_of_the_caller(instrumented: Run, app: str, loop: str, policy: str) -> None:
    served = instrumented(app, loop, policy)
    parents = {(span.trace_id, span.parent_id) for span in served.server_spans}
    assert parents == {(caller.trace_id, caller.span_id) for caller in served.callers}


@every_policy
def test_a_server_spans_parent_is_remote(instrumented: Run, app: str, loop: str, policy: str) -> None:
    assert all(span.has_remote_parent for span in instrumented(app, loop, policy).server_spans)


@every_policy
def test_a_child_task_lies_under_its_server_span(instrumented: Run, app: str, loop: str, policy: str) -> None:
    served = instrumented(app, loop, policy)
    servers = {(span.trace_id, span.span_id) for span in served.server_spans}
    assert {(span.trace_id, span.parent_id) for span in served.look_ups} == servers


@every_policy
def test_every_policy_records_the_child_tasks(instrumented: Run, app: str, loop: str, policy: str) -> None:
    served = instrumented(app, loop, policy)
    assert len(served.look_ups) == served.counts["requests"]


@every_app
def test_each_server_span_has_one_segment_under_it(instrumented: Run, app: str, loop: str) -> None:
    """The split of a request, whatever task the framework handles it in."""
    served = instrumented(app, loop, "all")
    segments = [s for s in served.spans if s.attributes.get("asyncio.task.kind") == "root_segment"]
    parents = Counter((segment.trace_id, segment.parent_id) for segment in segments)
    assert parents == {(server.trace_id, server.span_id): 1 for server in served.server_spans}


@pytest.mark.parametrize("loop", LOOPS)
def test_a_connection_of_aiohttp_is_not_lost_to_its_first_request(instrumented: Run, loop: str) -> None:
    """The task that serves a connection has a span of its own, or a segment under each of its requests."""
    spans = instrumented("aiohttp", loop, "all").spans
    assert len(named(spans, "task RequestHandler.start")) >= FEW_CONNECTIONS


@every_app
@pytest.mark.parametrize("policy", ["problems", "none"])
def test_without_healthy_root_tasks_no_span_is_outside_a_request(
    instrumented: Run, app: str, loop: str, policy: str
) -> None:
    served = instrumented(app, loop, policy)
    traces = {caller.trace_id for caller in served.callers}
    assert Counter(span.name for span in served.spans if span.trace_id not in traces) == {}
