"""What a program's spans are when they have come through the collector, and which of them come."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from integration.otlp import Span, named
from integration.receivers import until
from integration.running import line_of

from .components import PATIENCE, Collector
from .conftest import Chain
from .jaeger import Jaeger
from .service import PROGRAMS, Service, serving

PROGRAM = PROGRAMS / "faulty.py"
FAULTS = ("healthy", "failed", "lost_exception", "destroyed", "cancelled", "blocked", "timed_out")
ROUNDS = 4


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


STUCK_BY = 5 + 10 * 1.25
"""Seconds: from when on the request hangs, and how long after that by default the last look at it may be."""


@pytest.fixture(scope="module", autouse=True)
def hanging(otelcol: Path, jaeger: Jaeger, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A request that hangs while the other tests run. Nothing is set that is not a default, but for addresses."""
    collector = Collector.start(
        otelcol, "collector.yaml", tmp_path_factory.mktemp("hanging"), OTELCOL_BACKEND=jaeger.address
    )
    where = {"endpoint": collector.endpoint("grpc"), "protocol": "grpc", "name": "hanging"}
    with serving("hanging", OTEL_BSP_SCHEDULE_DELAY="5000", **where) as service:
        yield service
    collector.stop()


def settled(collector: Collector, jaeger: Jaeger, service: str) -> list[Span]:
    """The spans of a service that has ended, once the collector is through with them."""
    collector.wait_until_done()
    return jaeger.spans_of(service)


@pytest.fixture(scope="module", params=["grpc", "http/protobuf"], ids=["grpc", "http"])
def arrived(request: pytest.FixtureRequest, chain: Chain) -> Arrived:
    """A run into a collector that keeps none of the healthy rest."""
    service = f"faulty-{request.param.partition('/')[0]}"
    endpoint = chain.collector.endpoint(request.param)
    with serving(*FAULTS, "--rounds", str(ROUNDS), endpoint=endpoint, protocol=request.param, name=service) as running:
        did = running.wait()
    return Arrived(did, settled(chain.collector, chain.jaeger, service))


def test_no_span_comes_twice(arrived: Arrived) -> None:
    assert max(Counter(span.span_id for span in arrived.spans).values()) == 1


def test_every_problem_comes(arrived: Arrived) -> None:
    problems = Counter(span.attributes.get("asyncio.problem") for span in arrived.spans)
    assert (problems["exception_never_retrieved"], problems["task_destroyed_pending"]) == (ROUNDS, ROUNDS)


def test_every_failed_request_comes(arrived: Arrived) -> None:
    errors = [span for span in arrived.named("GET /item") if span.status == "ERROR"]
    assert len(errors) == arrived.did["failed"] + arrived.did["timed_out"]


@pytest.mark.parametrize("healthy", ["task look_up", "task poll", "task race"])
def test_healthy_requests_do_not_come(arrived: Arrived, healthy: str) -> None:
    assert arrived.named(healthy) == []


def test_every_unexpected_cancellation_comes_with_its_trace(arrived: Arrived) -> None:
    unexpected = [span for span in arrived.spans if span.attributes.get("asyncio.cancel.expected") is False]
    hit = [
        span for span in arrived.named("task wait_forever") if span.attributes["asyncio.task.outcome"] == "cancellation"
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


def test_a_blocked_loop_comes_with_the_line_that_blocked_it(arrived: Arrived) -> None:
    by_id = {span.span_id: span for span in arrived.spans}
    blocks = arrived.named("block compute")
    assert len(blocks) == ROUNDS
    for span in blocks:
        assert by_id[span.parent_id].name == "task compute"
        assert span.attributes["asyncio.problem"] == "loop_blocked"
        # A thread that starves as it begins stands on the function's own line.
        assert span.attributes["code.line.number"] in range(
            *(line_of(PROGRAM, each) for each in ("def compute", "def timed_out"))
        )


def test_a_deadline_that_passed_comes_with_its_owner_and_what_it_waited_on(arrived: Arrived) -> None:
    by_id = {span.span_id: span for span in arrived.spans}
    timeouts = arrived.named("timeout with_deadline")
    assert len(timeouts) == ROUNDS
    for span in timeouts:
        assert (span.status, by_id[span.parent_id].name) == ("ERROR", "task with_deadline")
        assert span.attributes["asyncio.problem"] == "timeout"
        assert span.attributes["asyncio.timeout.delay"] <= 0.011
        assert span.attributes["asyncio.await.target"] == "Event.wait"
        assert span.attributes["code.line.number"] == line_of(PROGRAM, "asyncio.timeout(PAUSE)")


def test_a_cancellation_links_to_the_request_that_asked_for_it(arrived: Arrived) -> None:
    """Which was healthy, and is not kept."""
    cancellations = arrived.named("cancel answer")
    assert len(cancellations) == ROUNDS
    assert {link.attributes["asyncio.link.type"] for span in cancellations for link in span.links} == {"canceller"}


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


def test_who_opens_a_trace_gets_it_whole(arrived: Arrived, jaeger: Jaeger) -> None:
    for trace_id, spans in arrived.traces().items():
        assert sorted(jaeger.trace(trace_id), key=by_time) == sorted(spans, key=by_time)


def test_what_the_pages_of_jaeger_read_says_the_same(arrived: Arrived, jaeger: Jaeger) -> None:
    for trace_id, spans in arrived.traces().items():
        (shown,) = jaeger.asked(f"/api/traces/{trace_id}")["data"]
        assert all(
            "clock skew adjustment disabled" in each for span in shown["spans"] for each in span["warnings"] or ()
        )
        assert {span["spanID"]: references(span) for span in shown["spans"]} == {
            span.span_id: {each for each in (span.parent_id, *(link.span_id for link in span.links)) if each}
            for span in spans
        }


def by_time(span: Span) -> tuple[int, str]:
    return span.start, span.span_id


def references(span: dict[str, Any]) -> set[str]:
    return {each["spanID"] for each in span["references"]}


def test_a_problem_does_not_wait_for_the_decision_on_its_trace(
    collect: Callable[..., Collector], jaeger: Jaeger
) -> None:
    collector = collect("collector.yaml", OTELCOL_BACKEND=jaeger.address, OTELCOL_DECISION_WAIT="120s")
    where = {"endpoint": collector.endpoint("grpc"), "protocol": "grpc", "name": "early"}
    with serving("lost_exception", "--rounds", "1", **where) as running:
        running.wait()
        until(lambda: bool(jaeger.spans_of("early")), PATIENCE, "the problem being in Jaeger")
    assert [span.name for span in jaeger.spans_of("early")] == ["asyncio.exception_never_retrieved"]


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_with_a_share_of_all_every_span_comes_once(
    protocol: str, collect: Callable[..., Collector], jaeger: Jaeger
) -> None:
    everything = {"OTELCOL_DECISION_WAIT": "1s", "OTELCOL_SAMPLING_PERCENTAGE": "100"}
    collector = collect("collector.yaml", OTELCOL_BACKEND=jaeger.address, **everything)
    where = {"endpoint": collector.endpoint(protocol), "protocol": protocol, "name": f"all-{protocol[:4]}"}
    with serving("lost_exception", "cancelled", "--rounds", str(ROUNDS), **where) as running:
        did = running.wait()
    spans = settled(collector, jaeger, where["name"])
    assert Counter(span.name for span in spans) == {
        "GET /item": did["requests"] + ROUNDS,
        "task serve": did["requests"],  # the segment of each request
        "task look_up": ROUNDS,
        "task start_and_forget": ROUNDS,
        "task fail": ROUNDS,
        "asyncio.exception_never_retrieved": ROUNDS,
        "task answer": ROUNDS,  # the segment of the one that is taken back
        "task wait_forever": ROUNDS,
        "cancel answer": ROUNDS,
        "cancel wait_forever": ROUNDS,
        "DELETE /item": ROUNDS,
        "task give_up": ROUNDS,
    }
    names = {span.span_id: span.name for span in spans}
    assert {names[link.span_id] for span in named(spans, "cancel answer") for link in span.links} == {"DELETE /item"}
    assert not collector.complaints()


def test_a_request_that_hangs_from_its_fifth_second_on_is_there_while_it_hangs(
    hanging: Service, jaeger: Jaeger
) -> None:
    until(lambda: bool(jaeger.spans_of("hanging")), STUCK_BY + PATIENCE, "the report being in Jaeger")
    reports = [span for span in jaeger.spans_of("hanging") if span.attributes.get("asyncio.problem") == "stuck"]
    assert hanging.process.poll() is None
    assert reports
    for span in reports:
        assert (span.name, span.attributes["asyncio.await.target"]) == ("asyncio.stuck", "Event.wait")
        assert span.attributes["code.line.number"] == line_of(PROGRAM, "    await asyncio.Event().wait()")
        assert span.parent_id  # of the request, which comes when it ends
