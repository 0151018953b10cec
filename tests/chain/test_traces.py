"""What a program's spans are when they have come through the collector, and which of them come."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from integration.otlp import Span, named
from integration.receivers import DatadogTestAgent, until
from integration.running import line_of

from otel_asyncio.emit import names

from .components import PATIENCE, Collector
from .conftest import Chain, address
from .service import PROGRAMS, serving

PROGRAM = PROGRAMS / "faulty.py"
FAULTS = ("healthy", "failed", "lost_exception", "destroyed", "cancelled")
ROUNDS = 8


@dataclass(frozen=True)
class Arrived:
    """What one run of the service did, and what came of it."""

    did: Counter[str]
    spans: list[Span]

    def traces(self) -> dict[str, list[Span]]:
        traces: dict[str, list[Span]] = defaultdict(list)
        for span in self.spans:
            traces[span.trace_id].append(span)
        return traces

    def named(self, name: str) -> list[Span]:
        return named(self.spans, name)


def spans_of(store: DatadogTestAgent, service: str) -> list[Span]:
    return [span for span in store.spans() if span.resource["service.name"] == service]


def settled(collector: Collector, store: DatadogTestAgent, service: str) -> list[Span]:
    """The spans of a service that has ended, once the collector is through with them."""
    collector.wait_until_done()
    return spans_of(store, service)


@pytest.fixture(scope="module", params=["grpc", "http/protobuf"], ids=["grpc", "http"])
def arrived(request: pytest.FixtureRequest, chain: Chain) -> Arrived:
    """A run into a collector that keeps none of the healthy rest."""
    service = f"faulty-{request.param.partition('/')[0]}"
    endpoint = chain.collector.endpoint(request.param)
    with serving(*FAULTS, "--rounds", str(ROUNDS), endpoint=endpoint, protocol=request.param, name=service) as running:
        did = running.wait()
    return Arrived(did, settled(chain.collector, chain.store, service))


def test_no_span_comes_twice(arrived: Arrived) -> None:
    assert max(Counter(span.span_id for span in arrived.spans).values()) == 1


def test_every_problem_comes(arrived: Arrived) -> None:
    problems = Counter(span.attributes.get("asyncio.problem") for span in arrived.spans)
    assert (problems["exception_never_retrieved"], problems["task_destroyed_pending"]) == (ROUNDS, ROUNDS)


def test_every_failed_request_comes(arrived: Arrived) -> None:
    errors = [span for span in arrived.named("GET /item") if span.status == "ERROR"]
    assert len(errors) == ROUNDS


@pytest.mark.parametrize("healthy", ["task look_up", "task poll", "task race"])
def test_healthy_requests_do_not_come(arrived: Arrived, healthy: str) -> None:
    assert arrived.named(healthy) == []


if hasattr(names, "CANCEL_EXPECTED"):

    def test_every_unexpected_cancellation_comes_with_its_trace(arrived: Arrived) -> None:
        unexpected = [span for span in arrived.spans if span.attributes.get("asyncio.cancel.expected") is False]
        hit = [
            span
            for span in arrived.named("task wait_forever")
            if span.attributes["asyncio.task.outcome"] == "cancellation"
        ]
        assert len(hit) == ROUNDS
        assert {span.trace_id for span in hit} <= {span.trace_id for span in unexpected}

    def test_an_unexpected_cancellation_names_the_line_that_cancelled(arrived: Arrived) -> None:
        lines = {
            span.attributes["asyncio.cancel.by.line"]
            for span in arrived.spans
            if span.attributes.get("asyncio.cancel.expected") is False
        }
        assert lines == {line_of(PROGRAM, "request.cancel()")}


def test_what_comes_comes_with_its_whole_trace(arrived: Arrived) -> None:
    known = {span.span_id for span in arrived.spans}
    orphans = [span.name for span in arrived.spans if span.parent_id and span.parent_id not in known]
    assert not orphans


def test_a_destroyed_task_lies_under_its_creator_and_names_its_line(arrived: Arrived) -> None:
    by_id = {span.span_id: span for span in arrived.spans}
    for span in [span for span in arrived.spans if span.attributes.get("asyncio.problem") == "task_destroyed_pending"]:
        assert (span.name, by_id[span.parent_id].name) == ("task wait_forever", "task lose_a_task")
        assert span.attributes["asyncio.task.created.line"] == line_of(PROGRAM, "create_task(wait_forever())")
        assert span.attributes["asyncio.task.outcome"] == "destroyed"


def test_a_lost_exception_links_to_its_task(arrived: Arrived) -> None:
    for span in arrived.named("asyncio.exception_never_retrieved"):
        (link,) = span.links
        assert (link.span_id, link.attributes) == (span.parent_id, {"asyncio.link.type": "task"})


def test_a_failed_task_keeps_its_exception(arrived: Arrived) -> None:
    for span in arrived.named("task fail"):
        assert (span.status, span.attributes["error.type"]) == ("ERROR", "ValueError")
        assert [event.attributes["exception.message"] for event in span.events] == ["planted"]


def test_the_split_comes_as_seconds_and_adds_up(arrived: Arrived) -> None:
    for span in arrived.named("task start_and_forget"):
        split = sum(span.seconds(f"asyncio.task.{part}_time") for part in ("busy", "scheduled", "idle"))
        assert split == pytest.approx((span.end - span.start) / 1e9, abs=1e-6)


def test_the_scope_says_who_made_the_spans(arrived: Arrived) -> None:
    assert {span.scope for span in arrived.spans} == {"otel_asyncio", "faulty"}


def test_a_problem_does_not_wait_for_the_decision_on_its_trace(
    collect: Callable[..., Collector], store: DatadogTestAgent
) -> None:
    collector = collect("collector.yaml", OTELCOL_BACKEND=address(store), OTELCOL_DECISION_WAIT="120s")
    where = {"endpoint": collector.endpoint("grpc"), "protocol": "grpc", "name": "early"}
    with serving("lost_exception", "--rounds", "1", **where) as running:
        running.wait()
        until(lambda: bool(spans_of(store, "early")), PATIENCE, "the problem being in the store")
    assert [span.name for span in spans_of(store, "early")] == ["asyncio.exception_never_retrieved"]


def test_a_request_that_hangs_comes_while_it_hangs(collect: Callable[..., Collector], store: DatadogTestAgent) -> None:
    collector = collect("collector.yaml", OTELCOL_BACKEND=address(store))  # it decides on traces after 30 s
    where = {"endpoint": collector.endpoint("grpc"), "protocol": "grpc", "name": "hanging"}
    with serving("hanging", OTEL_PYTHON_ASYNCIO_STUCK_AFTER="2000", **where):
        until(lambda: bool(spans_of(store, "hanging")), 25, "the report being in the store")
    assert [span.attributes["asyncio.problem"] for span in spans_of(store, "hanging")] == ["stuck"]


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_with_a_share_of_all_every_span_comes_once(
    protocol: str, collect: Callable[..., Collector], store: DatadogTestAgent
) -> None:
    everything = {"OTELCOL_DECISION_WAIT": "1s", "OTELCOL_SAMPLING_PERCENTAGE": "100"}
    collector = collect("collector.yaml", OTELCOL_BACKEND=address(store), **everything)
    store.clear()
    where = {"endpoint": collector.endpoint(protocol), "protocol": protocol, "name": "all"}
    with serving("lost_exception", "--rounds", str(ROUNDS), **where) as running:
        did = running.wait()
    spans = settled(collector, store, "all")
    assert Counter(span.name for span in spans) == {
        "GET /item": did["requests"],
        "task serve": did["requests"],  # the segment of each request
        "task look_up": ROUNDS,
        "task start_and_forget": ROUNDS,
        "task fail": ROUNDS,
        "asyncio.exception_never_retrieved": ROUNDS,
    }
    assert not collector.complaints()
