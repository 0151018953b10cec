"""What Prometheus knows in the end: of the spans, of the programs, of the four processes of a prefork server."""

from __future__ import annotations

from collections import Counter

import pytest
from integration.receivers import until

from .components import PATIENCE
from .conftest import Chain
from .service import serving

WORKERS = 4


@pytest.fixture(scope="module", params=["grpc", "http/protobuf"], ids=["grpc", "http"])
def ended(request: pytest.FixtureRequest, chain: Chain) -> tuple[str, Counter[str]]:
    """The name of a service that ran, and what it did."""
    name = f"counted-{request.param.partition('/')[0]}"
    where = {"endpoint": chain.collector.endpoint(request.param), "protocol": request.param, "name": name}
    with serving("destroyed", "failed", "healthy", "cancelled", "timed_out", "--rounds", "10", **where) as running:
        return name, running.wait()


def reaches(chain: Chain, expression: str, value: float) -> None:
    """Waits until Prometheus answers with this value, and says what it answers instead."""
    try:
        until(lambda: chain.prometheus.value(expression) == value, PATIENCE, expression)
    except TimeoutError as late:
        late.add_note(f"it is {chain.prometheus.value(expression)}, not {value}: {chain.prometheus.query(expression)}")
        raise


def test_spans_are_counted_before_sampling(chain: Chain, ended: tuple[str, Counter[str]]) -> None:
    name, did = ended
    expected = did["requests"] + did["failed"] + did["cancelled"] + did["timed_out"]  # these do not count themselves
    reaches(chain, f'sum(traces_span_metrics_calls_total{{job="{name}", span_name="GET /item"}})', expected)


def test_span_metrics_know_how_tasks_ended(chain: Chain, ended: tuple[str, Counter[str]]) -> None:
    name, did = ended
    calls = f'traces_span_metrics_calls_total{{job="{name}", asyncio_task_outcome="destroyed"}}'
    reaches(chain, f"sum({calls})", did["destroyed"])


def test_every_task_is_counted(chain: Chain, ended: tuple[str, Counter[str]]) -> None:
    name, did = ended
    reaches(chain, f'asyncio_task_started_total{{job="{name}"}}', did["started"])


def test_no_task_is_left(chain: Chain, ended: tuple[str, Counter[str]]) -> None:
    reaches(chain, f'asyncio_task_active{{job="{ended[0]}"}}', 0)


def test_every_problem_is_counted(chain: Chain, ended: tuple[str, Counter[str]]) -> None:
    name, did = ended
    reaches(
        chain, f'asyncio_problems_total{{job="{name}", asyncio_problem="task_destroyed_pending"}}', did["destroyed"]
    )


def test_unexpected_cancellations_are_counted_for_each_task_that_one_request_reached(
    chain: Chain, ended: tuple[str, Counter[str]]
) -> None:
    name, did = ended
    of_interest = (
        'asyncio_cancel_expected="false", asyncio_cancel_outcome="delivered", asyncio_cancel_origin="explicit"'
    )
    reaches(chain, f'asyncio_task_cancellations_total{{job="{name}", {of_interest}}}', 2 * did["cancelled"])


def test_the_losers_of_races_are_counted_as_expected(chain: Chain, ended: tuple[str, Counter[str]]) -> None:
    name, did = ended
    expected = f'asyncio_task_cancellations_total{{job="{name}", asyncio_cancel_expected="true"}}'
    reaches(chain, f"sum({expected})", did["healthy"])


def test_timeouts_that_were_handled_are_told_apart(chain: Chain, ended: tuple[str, Counter[str]]) -> None:
    name, did = ended
    reaches(chain, f'asyncio_timeouts_total{{job="{name}", asyncio_timeout_outcome="handled"}}', did["healthy"])
    reaches(chain, f'asyncio_timeouts_total{{job="{name}", asyncio_timeout_outcome="raised"}}', did["timed_out"])


def test_a_problem_that_never_was_is_zero(chain: Chain, ended: tuple[str, Counter[str]]) -> None:
    reaches(chain, f'count(asyncio_problems_total{{job="{ended[0]}", asyncio_problem="deadlock"}} == 0)', 1)


@pytest.fixture(scope="module")
def prefork(chain: Chain) -> Counter[str]:
    """Four processes, forked before anything of OpenTelemetry was there."""
    where = {"endpoint": chain.collector.endpoint("grpc"), "protocol": "grpc", "name": "prefork"}
    with serving("destroyed", "--workers", str(WORKERS), "--rounds", "10", **where) as running:
        return running.wait()


def test_prefork_workers_are_told_apart(chain: Chain, prefork: Counter[str]) -> None:
    reaches(chain, 'count(count by (instance) (asyncio_task_started_total{job="prefork"}))', WORKERS)


def test_prefork_workers_add_up_to_the_truth(chain: Chain, prefork: Counter[str]) -> None:
    reaches(chain, 'sum(asyncio_task_started_total{job="prefork"})', prefork["started"])


def test_prefork_workers_problems_add_up_to_the_truth(chain: Chain, prefork: Counter[str]) -> None:
    problems = 'sum(asyncio_problems_total{job="prefork", asyncio_problem="task_destroyed_pending"})'
    reaches(chain, problems, prefork["destroyed"])
