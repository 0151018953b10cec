"""Any program of tasks does the same with tracing as without, and its spans say what it did to the nanosecond."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan

from otel_asyncio.emit import names
from randomized.facts import Facts
from randomized.programs import Block
from randomized.runs import Account, Mode, Run, bare, run, watched
from randomized.strategies import programs
from randomized.world import NAMES_BECOME_NONE

WAYS_IN = ("instrumentor", "factory")
eager = st.booleans() if sys.version_info >= (3, 12) else st.just(False)
modes = st.builds(Mode, eager=eager, debug=st.sampled_from([False, False, True]), abandon=st.booleans())

# A profile that asks for more than hypothesis's own is a wish. Otherwise every run tries the same programs.
long = settings.default.max_examples > 100
budget = (
    settings(settings.default) if long else settings(max_examples=400, derandomize=True, database=None, deadline=None)
)
pytestmark = pytest.mark.timeout(0 if long else 120)


@budget
@given(program=programs, mode=modes)
def test_a_program_does_the_same_with_tracing_as_without(program: Block, mode: Mode) -> None:
    for way_in in WAYS_IN:
        expected = bare(program, mode, way_in)
        assert not mistakes(expected)
        traced = run(program, mode, way_in=way_in)
        assert traced.history == expected.history
        assert traced.late == expected.late
        assert traced.iterations == expected.iterations


@budget
@given(program=programs, mode=modes)
def test_every_task_has_one_span_that_tells_what_the_script_says(program: Block, mode: Mode) -> None:
    witness = watched(program, mode)
    expected = [_scripted(facts) for facts in witness.facts]
    for way_in in WAYS_IN:
        traced = run(program, mode, way_in=way_in)
        assert _told(traced) == expected
        assert traced.started == len(expected)
        ended = +traced.ended
        ended["error"] += ended.pop("timeout", 0)  # the script tells no deadline's error from another
        assert +ended == Counter(said["outcome"] for said in expected)


@budget
@given(program=programs, mode=modes)
def test_every_wait_lies_within_its_task_and_adds_up(program: Block, mode: Mode) -> None:
    for way_in in WAYS_IN:
        traced = run(program, mode, way_in=way_in)
        tasks = {span.context.span_id: span for span in _task_spans(traced)}
        idle: Counter[int] = Counter()
        for span in _await_spans(traced):
            said: Any = span.attributes
            task = tasks[span.parent.span_id if span.parent else 0]
            parts = [round(said[part] * 1e9) for part in (names.AWAIT_IDLE_TIME, names.AWAIT_SCHEDULED_TIME)]
            assert sum(parts) == (span.end_time or 0) - (span.start_time or 0) >= 1_000_000
            assert (task.start_time or 0) <= (span.start_time or 0) <= (span.end_time or 0) <= (task.end_time or 0)
            idle[task.context.span_id] += parts[0]
        for key, task in tasks.items():
            assert idle[key] <= round((task.attributes or {})[names.TASK_IDLE_TIME] * 1e9)  # type: ignore[operator]


def _await_spans(run: Run) -> list[ReadableSpan]:
    assert run.recorder is not None
    return [span for span in run.recorder.spans if span.name.startswith("await ")]


def mistakes(run: Run | Account) -> list[Any]:
    """What only a mistake in these tests can raise, and would raise bare and traced alike."""
    mistakes = ("NameError", "TypeError", "AttributeError", "AssertionError", "UnboundLocalError")
    return [event for event in run.history if any(f"'{name}'" in repr(event) for name in mistakes)]


def _scripted(facts: Facts) -> dict[str, Any]:
    """What the span should say."""
    idle = facts.ended - facts.created - facts.busy - facts.scheduled
    return {
        "start": facts.created,
        "end": facts.ended,
        "outcome": facts.outcome,
        "name": facts.name if _is_comparable(facts.name, facts.outcome) else None,
        "busy_time": facts.busy,
        "scheduled_time": facts.scheduled,
        "idle_time": idle,
        "steps": facts.steps,
        "start_delay": None if facts.first_step is None else facts.first_step - facts.created,
        "max_step_time": None if facts.first_step is None else facts.max_step,
    }


def _told(run: Run) -> list[dict[str, Any]]:
    """What the task spans say, in the order in which the tasks were made, in nanoseconds."""
    return [_read(span) for span in sorted(_task_spans(run), key=lambda span: (span.attributes or {})[names.TASK_ID])]


def _task_spans(run: Run) -> list[ReadableSpan]:
    assert run.recorder is not None
    return [span for span in run.recorder.spans if span.name.startswith("task ")]


def _read(span: ReadableSpan) -> dict[str, Any]:
    said: Any = {key.removeprefix("asyncio.task."): value for key, value in (span.attributes or {}).items()}
    times = ("busy_time", "scheduled_time", "idle_time", "start_delay", "max_step_time")
    return {
        "start": span.start_time,
        "end": span.end_time,
        "outcome": {"timeout": "error"}.get(said["outcome"], said["outcome"]),
        "name": said["name"] if _is_comparable(said["name"], said["outcome"]) else None,
        "steps": said["steps"],
        **{time: round(said[time] * 1e9) if time in said else None for time in times},
    }


def _is_comparable(name: str | None, outcome: str) -> bool:
    """Whether the program chose this name; the others are counted, in every run on from the last.

    A task that ends the loop in an eager first step takes its name along: nobody gets to see it.
    """
    return name is not None and not NAMES_BECOME_NONE and outcome != "exit" and not name.startswith("Task-")
