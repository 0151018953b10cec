"""`opentelemetry-instrument` on a script that knows nothing of it, with contrib's beside it and without.

Contrib's is switched off by the standard variable where it is not wanted: as good as not installed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from .otlp import Span, named, one, task_spans
from .receivers import DatadogTestAgent
from .running import PROGRAMS, program, require, run

CONTRIB_SCOPE = "opentelemetry.instrumentation.asyncio"
BOTH = {"OTEL_PYTHON_ASYNCIO_COROUTINE_NAMES_TO_TRACE": "fetch"}
OURS_ALONE = {**BOTH, "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "asyncio"}
FETCHES = 3
OUR_LINE = "INFO:otel_asyncio:"

Instrumented = Callable[[bool], list[Span]]
either_way = pytest.mark.parametrize("with_contrib", [False, True], ids=["alone", "with_contrib"])


@pytest.fixture(scope="module")
def spans_of_script(agent: DatadogTestAgent) -> Instrumented:
    """The script's spans with contrib's instrumentation beside ours, or without it; one run for each."""

    @cache
    def spans(with_contrib: bool) -> list[Span]:
        require("opentelemetry.distro", CONTRIB_SCOPE)
        agent.clear()
        choice = BOTH if with_contrib else OURS_ALONE
        run(*instrument_command(), environment={**agent.exporter_environment("http/protobuf"), **choice})
        return agent.spans()

    return spans


def instrument_command() -> list[str]:
    launcher = Path(sys.executable).with_name("opentelemetry-instrument")
    return [str(launcher), sys.executable, str(PROGRAMS / "script.py")]


@either_way
def test_every_task_has_one_span_of_ours(spans_of_script: Instrumented, with_contrib: bool) -> None:
    names = sorted(span.name for span in task_spans(spans_of_script(with_contrib)))
    assert names == [*["task fetch"] * FETCHES, "task main"]


def test_the_tasks_lie_under_the_script_s_main(spans_of_script: Instrumented) -> None:
    spans = spans_of_script(False)
    assert {span.parent_id for span in named(spans, "task fetch")} == {one(spans, "task main").span_id}


@either_way
def test_the_tasks_name_the_script_s_file(spans_of_script: Instrumented, with_contrib: bool) -> None:
    files = {span.attributes["code.file.path"] for span in task_spans(spans_of_script(with_contrib))}
    assert files == {str(PROGRAMS / "script.py")}


def test_contrib_works_beside_ours(spans_of_script: Instrumented) -> None:
    contribs = [span.name for span in spans_of_script(True) if span.scope == CONTRIB_SCOPE]
    assert contribs == ["asyncio coro-fetch"] * FETCHES


def test_contrib_is_off_where_it_is_disabled(spans_of_script: Instrumented) -> None:
    assert not [span.name for span in spans_of_script(False) if span.scope == CONTRIB_SCOPE]


def our_lines(choice: dict[str, str]) -> list[str]:
    require("opentelemetry.distro", CONTRIB_SCOPE)
    done = run(*program("logged_script.py"), environment={**choice, "OTEL_TRACES_EXPORTER": "none"})
    return [line for line in done.stderr.splitlines() if line.startswith(OUR_LINE)]


def test_one_line_says_that_contrib_is_on_too() -> None:
    lines = our_lines(BOTH)
    assert len(lines) == 1, lines
    assert "opentelemetry-instrumentation-asyncio" in lines[0]


def test_no_line_about_contrib_where_it_is_disabled() -> None:
    assert our_lines(OURS_ALONE) == []
