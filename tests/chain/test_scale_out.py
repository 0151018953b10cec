"""Two gateways behind an agent: where the spans of a trace end, and what is lost when a gateway goes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from integration.otlp import Span
from integration.receivers import until

from .components import PATIENCE, Collector
from .jaeger import Jaeger
from .service import serving

FOUR_A_ROUND = ("GET /item", "task serve", "task look_up")
"""The spans of a healthy request, all in one trace."""


LONGEST_RETRY = 6.0
"""Seconds: agent.yaml's `max_interval`, and some."""


@dataclass
class Cluster:
    agent: Collector
    gateways: tuple[Collector, Collector]
    backends: tuple[Jaeger, Jaeger]

    def arrived(self, which: int, service: str) -> list[Span]:
        return self.backends[which].spans_of(service)

    def settle(self, service: str) -> None:
        """Wait until nothing more comes. An agent's queues show no figures: longer than it waits before it tries again."""
        seen = [(-1, 0.0)]

        def is_still() -> bool:
            count = sum(len(self.arrived(which, service)) for which in (0, 1))
            if count != seen[-1][0]:
                seen.append((count, time.monotonic()))
            return time.monotonic() - seen[-1][1] > LONGEST_RETRY and all(each.is_done() for each in self.gateways)

        until(is_still, 2 * PATIENCE, "nothing more coming")


@pytest.fixture
def cluster(collect: Callable[..., Collector], jaeger: Jaeger, second_jaeger: Jaeger) -> Cluster:
    backends = jaeger, second_jaeger
    everything = {"OTELCOL_SAMPLING_PERCENTAGE": "100", "OTELCOL_DECISION_WAIT": "2s"}
    first, second = (collect("gateway.yaml", OTELCOL_BACKEND=each.address, **everything) for each in backends)
    addresses = ", ".join(f"127.0.0.1:{each.ports['grpc']}" for each in (first, second))
    agent = collect("agent.yaml", OTELCOL_GATEWAYS=f"[{addresses}]")
    return Cluster(agent, (first, second), backends)


def run(cluster: Cluster, name: str, rounds: int, meanwhile: Callable[[], None] = lambda: None) -> Counter[str]:
    where = {"endpoint": cluster.agent.endpoint("grpc"), "protocol": "grpc", "name": name}
    pace = {"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "16", "OTEL_BSP_SCHEDULE_DELAY": "20"}  # traces come in pieces
    with serving("--rounds", str(rounds), "--pause", "0.001", **where, **pace) as running:
        meanwhile()
        return running.wait()


def accepted(*collectors: Collector) -> float:
    return sum(each.of_itself("otelcol_receiver_accepted_spans") for each in collectors)


def test_the_spans_of_a_trace_end_at_one_gateway(cluster: Cluster) -> None:
    did = run(cluster, "routed", 200)
    until(lambda: accepted(*cluster.gateways) == accepted(cluster.agent), PATIENCE, "all spans with the gateways")
    for gateway in cluster.gateways:
        gateway.wait_until_done()
    here, there = (Counter(span.trace_id for span in cluster.arrived(which, "routed")) for which in (0, 1))
    assert here
    assert there
    assert not here.keys() & there.keys()
    assert {*here.values(), *there.values()} == {3}
    assert len(here) + len(there) == did["requests"] == 200


def test_the_programs_metrics_do_not_need_the_gateways(cluster: Cluster) -> None:
    for gateway in cluster.gateways:
        gateway.kill()
    did = run(cluster, "alone", 5)
    until(lambda: total(cluster.agent, "asyncio_task_started_total") == did["started"], PATIENCE, "all tasks counted")


def total(collector: Collector, metric: str) -> float:
    return sum(value for series, value in collector.of_programs().items() if series.startswith(metric + "{"))


def test_a_gateway_that_is_told_to_end_loses_nothing(cluster: Cluster) -> None:
    def restart() -> None:
        until(lambda: accepted(cluster.gateways[0]) > 100, PATIENCE, "load on the first gateway")
        cluster.gateways[0].stop()
        cluster.gateways[0].run()

    did = run(cluster, "restarted", 400, restart)
    cluster.settle("restarted")
    arrived = [span.span_id for which in (0, 1) for span in cluster.arrived(which, "restarted")]
    assert len(arrived) == len(set(arrived)) == 3 * did["requests"]


def test_a_gateway_that_is_killed_loses_what_it_had_not_decided_on(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    held: list[float] = []

    def kill_and_restart() -> None:
        until(lambda: accepted(cluster.gateways[0]) > 100, PATIENCE, "load on the first gateway")
        held.append(accepted(cluster.gateways[0]))
        cluster.gateways[0].kill()
        cluster.gateways[0].run()

    did = run(cluster, "killed", 400, kill_and_restart)
    cluster.settle("killed")
    arrived = [len(cluster.arrived(which, "killed")) for which in (0, 1)]
    lost = 3 * did["requests"] - sum(arrived)
    with capsys.disabled():
        print(f"\na killed gateway: {lost} of {3 * did['requests']} spans lost; it had taken {held[0]:.0f}")
    assert arrived[1] == accepted(cluster.gateways[1])  # the other's are all there
    assert arrived[0] >= accepted(cluster.gateways[0])  # and all that came after the restart
    assert 0 < lost < held[0] + 100  # what it had, and what it took between the question and the kill
