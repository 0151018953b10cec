"""From a fault in a program to a message at a webhook, through the rules as shipped; minutes pass as seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from integration.receivers import until

from .conftest import Chain
from .service import Service, serving

DEADLINE = 60.0

EXPECTED = {
    "lost_exception": "AsyncioProblem",
    "destroyed": "AsyncioProblem",
    "cancelled": "AsyncioCancellationSpike",
    "swallowed": "AsyncioCancelSwallowed",
    "timed_out": "AsyncioTimeouts",
    "blocked": "AsyncioLoopBlocked",
    "hanging": "AsyncioTaskStuck",
    "deadlocked": "AsyncioDeadlock",
}
"""What each fault makes the webhook hear."""

SOONER = {
    "swallowed": {"OTEL_PYTHON_ASYNCIO_AWAIT_THRESHOLD": "200"},
    "hanging": {"OTEL_PYTHON_ASYNCIO_STUCK_AFTER": "1000"},
    "deadlocked": {"OTEL_PYTHON_ASYNCIO_STUCK_AFTER": "1000"},
}
"""Minutes pass as seconds here."""


@pytest.fixture(scope="module")
def at_once(chain: Chain) -> Iterator[dict[str, Service]]:
    """A healthy service, and one for each fault, all running until the last alert has come."""
    where = {"endpoint": chain.collector.endpoint("grpc"), "protocol": "grpc"}
    with ExitStack() as stack:
        kinds = ["healthy", *EXPECTED]
        services = {
            kind: stack.enter_context(
                serving(kind, "--pause", "0.1", name=f"does-{kind}", **where, **SOONER.get(kind, {}))
            )
            for kind in kinds
        }
        for kind in EXPECTED:
            until(lambda kind=kind: bool(chain.webhook.of(f"does-{kind}")), DEADLINE, f"an alert for {kind}")
        yield services


@pytest.mark.parametrize("fault", EXPECTED)
def test_a_fault_is_heard_at_the_webhook(chain: Chain, at_once: dict[str, Service], fault: str) -> None:
    assert EXPECTED[fault] in chain.webhook.of(f"does-{fault}")


def test_an_alert_says_where_to_look(chain: Chain, at_once: dict[str, Service]) -> None:
    told = [alert for alert in chain.webhook.told if alert["labels"].get("job") == "does-destroyed"]
    assert told[0]["annotations"]["summary"] == "does-destroyed: task_destroyed_pending"
    assert "asyncio.task.created.file" in told[0]["annotations"]["runbook"]


def test_a_healthy_service_is_not_heard_of(chain: Chain, at_once: dict[str, Service]) -> None:
    running = 'asyncio_task_started_total{job="does-healthy"} > 100'
    until(lambda: bool(chain.prometheus.query(running)), DEADLINE, "the healthy service having worked")
    assert chain.webhook.of("does-healthy") == set()
    assert chain.prometheus.query('ALERTS{job="does-healthy"}') == []


def test_the_chain_itself_is_not_heard_of(chain: Chain, at_once: dict[str, Service]) -> None:
    own = [alert["labels"] for alert in chain.webhook.told if not alert["labels"].get("job", "").startswith("does-")]
    assert [labels for labels in own if labels["alertname"].startswith("Collector")] == []


def test_durations_have_exemplars_that_lead_to_a_trace(chain: Chain, at_once: dict[str, Service]) -> None:
    """While the service runs: the collector keeps an exemplar from one flush to the next only."""
    durations = 'traces_span_metrics_duration_seconds_bucket{job="does-healthy"}'
    until(lambda: bool(chain.prometheus.exemplars(durations)), DEADLINE, "exemplars")
    assert all(len(labels["trace_id"]) == 32 for labels in chain.prometheus.exemplars(durations))


def test_how_long_a_loop_was_blocked_is_there_to_see(chain: Chain, at_once: dict[str, Service]) -> None:
    held = 'asyncio_eventloop_block_duration_seconds_{}{{job="does-blocked", asyncio_eventloop_measurement="exact"}}'
    until(lambda: chain.prometheus.value(held.format("count")) > 0, DEADLINE, "a block")
    mean = chain.prometheus.value(f"{held.format('sum')} / {held.format('count')}")
    assert 0.4 <= mean < 20
