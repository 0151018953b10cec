"""A program's tasks in a real OTLP receiver: over gRPC and over HTTP, from asyncio and from uvloop."""

from __future__ import annotations

from collections import Counter
from importlib.metadata import version
from itertools import product

import pytest

from .otlp import Span, named, one, task_spans
from .receivers import DatadogTestAgent
from .running import PROGRAMS, line_of, program, require, run_into

SERVICE = "integration-tasks"
WAYS = list(product(("asyncio", "uvloop"), ("grpc", "http/protobuf")))
PROGRAM = PROGRAMS / "tasks.py"

TYPES = {
    "asyncio.task.name": str,
    "asyncio.task.id": int,
    "asyncio.task.kind": str,
    "asyncio.task.outcome": str,
    "code.function.name": str,
    "code.file.path": str,
    "code.line.number": int,
    "asyncio.task.created.file": str,
    "asyncio.task.created.line": int,
    "asyncio.task.created.function": str,
    "asyncio.task.busy_time": float,
    "asyncio.task.scheduled_time": float,
    "asyncio.task.idle_time": float,
    "asyncio.task.steps": int,
    "asyncio.task.max_step_time": float,
    "asyncio.task.max_idle_time": float,
    "asyncio.task.start_delay": float,
    "asyncio.eventloop.id": int,
    "asyncio.eventloop.implementation": str,
}
"""The attributes of a task span that ended well, by the contract."""


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: "-".join(way).replace("/", "-"))
def spans(request: pytest.FixtureRequest, agent: DatadogTestAgent) -> list[Span]:
    """What one run of the program brought into the receiver; every claim below is about the same run."""
    loop, protocol = request.param
    require(loop)
    return run_into(agent, *program("tasks.py", loop), protocol=protocol, service=SERVICE)


def test_every_task_arrives_once(spans: list[Span]) -> None:
    assert Counter(span.name for span in task_spans(spans)) == {
        "task work": 1,
        "task nested": 1,
        "task gathered": 2,
        "task grouped": 1,
        "task failing": 1,
        "task cancelled": 1,
        "task belated": 1,
        "task request": 1,
        "task plain_main": 1,
        "task below_main": 1,
    }


def test_span_ids_are_unique(spans: list[Span]) -> None:
    assert len({span.span_id for span in spans}) == len(spans)


@pytest.mark.parametrize("name", ["work", "gathered", "grouped", "failing", "cancelled"])
def test_a_task_made_inside_a_users_span_is_its_child(spans: list[Span], name: str) -> None:
    request = one(spans, "request")
    parents = {(span.trace_id, span.parent_id) for span in named(spans, f"task {name}")}
    assert parents == {(request.trace_id, request.span_id)}


def test_a_task_made_inside_a_task_is_its_child(spans: list[Span]) -> None:
    outer, inner = one(spans, "task work"), one(spans, "task nested")
    assert (inner.trace_id, inner.parent_id) == (outer.trace_id, outer.span_id)


def test_a_users_span_in_a_root_task_stays_a_root(spans: list[Span]) -> None:
    assert one(spans, "request").parent_id == ""


def test_a_root_task_with_a_users_span_becomes_a_segment_under_it(spans: list[Span]) -> None:
    segment, request = one(spans, "task request"), one(spans, "request")
    assert (segment.attributes["asyncio.task.kind"], segment.parent_id) == ("root_segment", request.span_id)


def test_the_task_of_the_runner_is_a_root_of_kind_main(spans: list[Span]) -> None:
    main = one(spans, "task plain_main")
    assert (main.attributes["asyncio.task.kind"], main.parent_id) == ("main", "")


def test_a_task_below_a_root_task_is_its_child(spans: list[Span]) -> None:
    main, below = one(spans, "task plain_main"), one(spans, "task below_main")
    assert (below.trace_id, below.parent_id) == (main.trace_id, main.span_id)


def test_a_task_made_after_the_span_ended_is_a_root(spans: list[Span]) -> None:
    belated = one(spans, "task belated")
    assert belated.parent_id == ""
    assert belated.trace_id != one(spans, "request").trace_id


def test_a_task_made_after_the_span_ended_links_to_its_spawner(spans: list[Span]) -> None:
    request = one(spans, "request")
    links = [(link.attributes, link.trace_id, link.span_id) for link in one(spans, "task belated").links]
    assert links == [({"asyncio.link.type": "spawner"}, request.trace_id, request.span_id)]


def test_every_task_span_is_internal(spans: list[Span]) -> None:
    assert {span.kind for span in task_spans(spans)} == {"INTERNAL"}


def test_no_task_span_claims_a_remote_parent(spans: list[Span]) -> None:
    assert not [span.name for span in task_spans(spans) if span.has_remote_parent]


def test_the_resource_is_the_programs(spans: list[Span]) -> None:
    assert {span.resource["service.name"] for span in task_spans(spans)} == {SERVICE}


def test_the_scope_carries_the_packages_version(spans: list[Span]) -> None:
    assert {span.scope_version for span in task_spans(spans)} == {version("otel-asyncio")}


def test_the_scope_carries_a_schema_url(spans: list[Span]) -> None:
    urls = {span.schema_url for span in task_spans(spans)}
    assert [url.rpartition("/")[0] for url in urls] == ["https://opentelemetry.io/schemas"]


def test_a_parent_starts_before_its_children(spans: list[Span]) -> None:
    by_id = {span.span_id: span for span in spans}
    children = [span for span in spans if span.parent_id]
    assert not [span.name for span in children if by_id[span.parent_id].start > span.start]


def test_an_awaited_task_ends_before_the_span_around_it(spans: list[Span]) -> None:
    assert one(spans, "task work").end <= one(spans, "request").end


def test_no_span_ends_before_it_starts(spans: list[Span]) -> None:
    assert not [span.name for span in spans if span.end < span.start]


def test_a_task_span_has_the_contracts_attributes_with_their_types(spans: list[Span]) -> None:
    attributes = one(spans, "task work").attributes
    assert {name: type(value) for name, value in attributes.items()} == TYPES


def test_the_three_way_split_adds_up_to_the_spans_duration(spans: list[Span]) -> None:
    work = one(spans, "task work")
    parts = sum(work.seconds(f"asyncio.task.{part}_time") for part in ("busy", "scheduled", "idle"))
    assert parts == pytest.approx((work.end - work.start) / 1e9, abs=1e-4)


def test_a_task_span_names_the_coroutines_file(spans: list[Span]) -> None:
    assert one(spans, "task work").attributes["code.file.path"] == str(PROGRAM)


def test_a_task_span_names_the_line_that_made_the_task(spans: list[Span]) -> None:
    line = line_of(PROGRAM, "await asyncio.create_task(work()")
    assert one(spans, "task work").attributes["asyncio.task.created.line"] == line


def test_a_task_keeps_the_name_the_program_gave_it(spans: list[Span]) -> None:
    assert one(spans, "task work").attributes["asyncio.task.name"] == "the work"


def test_a_raising_task_is_an_error(spans: list[Span]) -> None:
    failing = one(spans, "task failing")
    assert (failing.status, failing.attributes["error.type"]) == ("ERROR", "ValueError")


def test_a_raising_task_records_its_exception(spans: list[Span]) -> None:
    recorded = [
        (event.name, event.attributes["exception.type"], event.attributes["exception.message"])
        for event in one(spans, "task failing").events
    ]
    assert recorded == [("exception", "ValueError", "wanted")]


def test_a_cancelled_task_is_not_an_error(spans: list[Span]) -> None:
    assert one(spans, "task cancelled").status == "UNSET"


def test_a_cancelled_task_says_so_in_its_outcome(spans: list[Span]) -> None:
    assert one(spans, "task cancelled").attributes["asyncio.task.outcome"] == "cancellation"
