"""Settings: in Python a wrong value is an error, in the environment a warning; each takes what it says."""

from __future__ import annotations

import dataclasses
import logging
import math
import signal
from typing import Any

import pytest

from otel_asyncio import Settings

PREFIX = "OTEL_PYTHON_ASYNCIO_"

# The table of the contract.
DEFAULTS: dict[str, Any] = {
    "await_threshold": 0.1,
    "block_threshold": 0.1,
    "stuck_after": 10,
    "idle_targets": (
        "asyncio.sleep", "Queue.get", "*.serve_forever", "websocket*.recv*", "*.receive", "*.wait_closed",
    ),
    "root_tasks": "all",
    "root_context": False,
    "min_task_duration": 0,
    "include": (),
    "exclude": (),
    "detached_tasks": (),
    "max_awaits_per_span": 128,
    "stack_depth": 32,
    "request_split": True,
    "executor_context": True,
    "problem_rate": 10,
    "problem_log": True,
    "metric_functions": 0,
    "origin_tracking": False,
    "capture_messages": False,
    "dump_signal": None,
}  # fmt: skip

SECONDS = ("await_threshold", "block_threshold", "stuck_after", "min_task_duration")
COUNTS = ("max_awaits_per_span", "stack_depth", "problem_rate", "metric_functions")
FLAGS = ("root_context", "request_split", "executor_context", "problem_log", "origin_tracking", "capture_messages")
LISTS = ("idle_targets", "include", "exclude", "detached_tasks")

WRONG: list[tuple[str, Any]] = [
    *((name, value) for name in SECONDS for value in (-1, "1", None, True, math.nan)),
    *((name, value) for name in COUNTS for value in (-1, 1.5, "1", None, True)),
    *((name, value) for name in FLAGS for value in (1, "true", None)),
    *((name, value) for name in LISTS for value in ("text", [""], [1], None, 5)),
    *(("root_tasks", value) for value in ("some", "", None, 1)),
    *(("dump_signal", value) for value in ("SIGNONE", -5, 4096)),
]
FROM_TEXT: list[tuple[str, str, Any]] = [
    *((name, "250", 0.25) for name in SECONDS),
    *((name, "0", 0.0) for name in SECONDS),
    *((name, "off", math.inf) for name in SECONDS),
    *((name, "7", 7) for name in COUNTS),
    *((name, "off", 0) for name in COUNTS),
    *((name, text, value) for name in FLAGS for text, value in (("true", True), ("off", False), ("0", False))),
    *((name, "one, *.two ,", ("one", "*.two")) for name in LISTS),
    *((name, "off", ()) for name in LISTS),
    ("root_tasks", "Problems", "problems"),
    ("root_tasks", "none", "none"),
    ("dump_signal", "SIGUSR1", signal.SIGUSR1),
    ("dump_signal", "off", None),
]
WRONG_TEXT = [
    *((name, text) for name in SECONDS for text in ("0.5", "-1", "soon", "1e3")),
    *((name, text) for name in COUNTS for text in ("1.5", "-1", "many", "99999999999")),
    *((name, "maybe") for name in FLAGS),
    ("root_tasks", "some"),
    ("dump_signal", "SIGNONE"),
]


def test_the_defaults_are_those_of_the_contract() -> None:
    assert dataclasses.asdict(Settings()) == DEFAULTS


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().root_tasks = "none"  # type: ignore[misc]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=str)
def test_a_wrong_value_is_an_error_that_names_field_and_value(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name) as caught:
        Settings(**{name: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(("name", "text", "value"), FROM_TEXT, ids=str)
def test_the_environment_is_read(name: str, text: str, value: Any) -> None:
    assert getattr(Settings.from_env({PREFIX + name.upper(): text}), name) == value


@pytest.mark.parametrize(("name", "text"), WRONG_TEXT, ids=str)
def test_a_wrong_variable_leaves_the_default(name: str, text: str) -> None:
    assert getattr(Settings.from_env({PREFIX + name.upper(): text}), name) == DEFAULTS[name]


@pytest.mark.parametrize(("name", "text"), WRONG_TEXT, ids=str)
def test_a_wrong_variable_is_one_warning_that_names_it(name: str, text: str, caplog: pytest.LogCaptureFixture) -> None:
    Settings.from_env({PREFIX + name.upper(): text})
    (record,) = caplog.records
    said = record.getMessage()
    assert (record.levelno, record.name) == (logging.WARNING, "otel_asyncio")
    assert all(part in said for part in (PREFIX + name.upper(), repr(text), repr(getattr(Settings(), name))))


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_variable_is_unset(name: str, text: str, caplog: pytest.LogCaptureFixture) -> None:
    assert Settings.from_env({PREFIX + name.upper(): text}) == Settings()
    assert caplog.records == []


def test_what_is_given_wins_over_the_environment() -> None:
    settings = Settings.from_env({PREFIX + "ROOT_TASKS": "none", PREFIX + "STACK_DEPTH": "5"}, root_tasks="problems")
    assert (settings.root_tasks, settings.stack_depth) == ("problems", 5)


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PREFIX + "PROBLEM_RATE", "3")
    assert Settings.from_env().problem_rate == 3


@pytest.mark.parametrize(
    "name", ["COROUTINE_NAMES_TO_TRACE", "TO_THREAD_FUNCTION_NAMES_TO_TRACE", "FUTURE_TRACE_ENABLED"]
)
def test_the_variables_of_contrib_are_not_ours(name: str, caplog: pytest.LogCaptureFixture) -> None:
    assert Settings.from_env({PREFIX + name: "anything"}) == Settings()
    assert caplog.records == []


@pytest.mark.parametrize("name", LISTS)
def test_a_list_becomes_a_tuple(name: str) -> None:
    assert getattr(Settings(**{name: ["a*", "b"]}), name) == ("a*", "b")
