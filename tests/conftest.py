"""Fixtures for all tests, and the rule that in CI nothing is skipped."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import LOOP_KINDS, NewLoop, Program, Spans, TracedRun, instrumented, loop_maker, run_on

from otel_asyncio import AsyncioInstrumentor

NO_SKIP = "OTEL_ASYNCIO_NO_SKIP"


def pytest_configure(config: pytest.Config) -> None:
    # nohup, and a shell that starts us in the background, let signals be ignored, in every program under test as well.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)
    config.addinivalue_line("markers", "version_specific: may be skipped: this Python cannot have the feature")
    config.addinivalue_line("markers", "settings(**settings): the settings of the fixture `instrumented_process`")


# What an older interpreter cannot have, and what a machine's owner has to allow.
_EXCUSES = ("needs Python", "needs rights that this machine does not give")


def _no_excuse(reason: str) -> bool:
    return os.environ.get(NO_SKIP) == "1" and not reason.removeprefix("Skipped: ").startswith(_EXCUSES)


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    return str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: Any = yield
    excused = hasattr(report, "wasxfail") or item.get_closest_marker("version_specific") is not None
    if report.skipped and not excused and _no_excuse(_reason(report)):
        report.outcome, report.longrepr = "failed", f"{NO_SKIP}=1, and yet: {_reason(report)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    report: Any = yield
    if report.skipped and _no_excuse(_reason(report)):
        report.outcome, report.longrepr = "failed", f"{NO_SKIP}=1, and yet: {_reason(report)}"
    return report


@pytest.fixture(scope="module", autouse=True)
def a_small_heap() -> None:
    """Many tests collect, and a collection takes the longer the more there is: what is there already is set aside."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=LOOP_KINDS)
def loop_kind(request: pytest.FixtureRequest) -> str:
    """Every test that runs a loop runs it on asyncio and on uvloop."""
    return str(request.param)


@pytest.fixture
def provider_kind() -> str:
    """The SDK's own provider; `harness.both_providers` adds one that is only of the API."""
    return "sdk"


@pytest.fixture
def way_in() -> str:
    """The whole process; `harness.both_ways` adds a single loop, by its task factory."""
    return "instrumentor"


@pytest.fixture
def new_loop(loop_kind: str) -> NewLoop:
    """Makes loops of the kind under test."""
    return loop_maker(loop_kind)


@pytest.fixture
def run(new_loop: NewLoop) -> Callable[..., Any]:
    """Runs a coroutine on a fresh loop; untraced, unless something else traces."""
    return lambda main, **kwargs: run_on(new_loop, main, **kwargs)


@pytest.fixture
def spans(provider_kind: str) -> Iterator[Spans]:
    """A provider of the flavour under test that exports into memory."""
    spans = Spans(provider_kind)
    yield spans
    spans.sdk.shutdown()


@pytest.fixture
def traced_run(way_in: str, new_loop: NewLoop, spans: Spans) -> TracedRun:
    """Runs a coroutine on a fresh loop, traced into `spans`."""
    return TracedRun(way_in, new_loop, spans)


@pytest.fixture
def instrumented_process(request: pytest.FixtureRequest, spans: Spans) -> Iterator[AsyncioInstrumentor]:
    """The process is traced for the time of the test, with the settings of the marker `settings`."""
    marker = request.node.get_closest_marker("settings")
    with instrumented(spans, **(marker.kwargs if marker is not None else {})) as instrumentor:
        yield instrumentor


@pytest.fixture
def same_as_bare(run: Callable[..., Any], traced_run: TracedRun) -> Callable[..., Any]:
    """Runs a program bare and then traced, requires equal results, and returns the result."""

    def compare(program: Program, **kwargs: Any) -> Any:
        bare = run(program(), **kwargs)
        traced = traced_run(program(), **kwargs)
        assert traced == bare
        return traced

    return compare
