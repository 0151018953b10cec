"""The settings: each name, unit, default and limit once."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

logger = logging.getLogger("otel_asyncio")

PREFIX = "OTEL_PYTHON_ASYNCIO_"
NEVER = math.inf
IDLE_TARGETS = (
    "asyncio.sleep",
    "Queue.get",
    "*.serve_forever",
    "websocket*.recv*",
    "*.receive",
    "*.wait_closed",
)


class _Invalid(ValueError):
    """A value that a setting does not take; its text says what it takes."""


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value:
        raise _Invalid("a number of seconds, 0 or more; math.inf for never")
    return float(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1_000_000:
        raise _Invalid("a whole number from 0 to 1000000")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Invalid("True or False")
    return value


def _globs(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not all(isinstance(item, str) and item for item in value):
        raise _Invalid("a sequence of non-empty strings, each a glob for a qualified name")
    return tuple(value)


def _root_tasks(value: Any) -> str:
    if value not in ("all", "problems", "none"):
        raise _Invalid("'all', 'problems' or 'none'")
    return str(value)


def _signal(value: Any) -> signal.Signals | None:
    if value is None:
        return None
    try:
        return signal.Signals[value] if isinstance(value, str) else signal.Signals(value)
    except (KeyError, ValueError):
        raise _Invalid("a signal's name or number, such as SIGUSR1, or None") from None


def _from_milliseconds(text: str) -> float:
    if text.lower() == "off":
        return NEVER
    if not text.isdecimal():
        raise _Invalid("a whole number of milliseconds, or 'off'")
    return int(text) / 1000


def _from_whole_number(text: str) -> int:
    if text.lower() == "off":
        return 0
    if not text.isdecimal():
        raise _Invalid("a whole number from 0 to 1000000")
    return int(text)


def _from_flag(text: str) -> bool:
    words = {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}
    if text.lower() not in words:
        raise _Invalid("'true' or 'false'")
    return words[text.lower()]


def _from_list(text: str) -> tuple[str, ...]:
    if text.lower() == "off":
        return ()
    return tuple(item.strip() for item in text.split(",") if item.strip())


def _from_signal(text: str) -> str | None:
    return None if text.lower() == "off" else text


def _setting(default: Any, check: Callable[[Any], Any], read: Callable[[str], Any]) -> Any:
    return field(default=default, metadata={"check": check, "read": read})


def _seconds_of(default: float) -> Any:
    return _setting(default, _seconds, _from_milliseconds)


def _count_of(default: int) -> Any:
    return _setting(default, _count, _from_whole_number)


def _flag_of(*, default: bool) -> Any:
    return _setting(default, _flag, _from_flag)


def _globs_of(*default: str) -> Any:
    return _setting(default, _globs, _from_list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is recorded, and how much of it. Durations are seconds.

    Every setting can also be given in the environment as `OTEL_PYTHON_ASYNCIO_<NAME>`: durations there are whole
    milliseconds, lists are separated by commas, `off` means never (or none), and an empty value counts as unset.

    Raises:
        ValueError: a value is wrong. The message names the setting, the value and what it takes.
    """

    await_threshold: float = _seconds_of(0.1)
    """An await that lasts at least this long becomes a span."""

    block_threshold: float = _seconds_of(0.1)
    """A step that holds the loop at least this long becomes a span. asyncio's own threshold in debug mode."""

    stuck_after: float = _seconds_of(10.0)
    """A task pending on one await for longer is reported while it still hangs."""

    idle_targets: tuple[str, ...] = _globs_of(*IDLE_TARGETS)
    """What may be waited for without end: globs for the targets that are never reported as stuck."""

    root_tasks: Literal["all", "problems", "none"] = _setting("all", _root_tasks, str.lower)
    """Tasks created without an open span: all become spans, those in which something went wrong, or none."""

    root_context: bool = _flag_of(default=False)
    """Whether the span of a root task is current inside it. For scripts: a server instrumentation that finds a
    local parent ignores the incoming `traceparent`."""

    min_task_duration: float = _seconds_of(0.0)
    """A task that took less leaves no span, unless something nests under it or went wrong in it."""

    include: tuple[str, ...] = _globs_of()
    """Globs for `module.qualname` of the coroutine. If any are given, only tasks that match one become spans."""

    exclude: tuple[str, ...] = _globs_of()
    """Globs for `module.qualname` of the coroutine. Tasks that match one leave no span; wins over `include`."""

    detached_tasks: tuple[str, ...] = _globs_of()
    """Globs for `module.qualname` of the coroutine. Tasks that match one get a trace of their own, with a link
    `spawner` to the span that was open where they were created."""

    max_awaits_per_span: int = _count_of(128)
    """At most this many await spans for one task; what was cut is counted on the task's span."""

    stack_depth: int = _count_of(32)
    """At most this many frames of a stack."""

    request_split: bool = _flag_of(default=True)
    """Whether a server's request span gets a child with the busy, scheduled and idle time of its interval."""

    executor_context: bool = _flag_of(default=True)
    """Whether the OpenTelemetry context is carried into the threads of `run_in_executor`."""

    problem_rate: int = _count_of(10)
    """At most this many problems of one kind a second are logged and become spans; the rest is counted."""

    problem_log: bool = _flag_of(default=True)
    """Whether every problem is also one WARNING on the logger `otel_asyncio.problem`."""

    metric_functions: int = _count_of(0)
    """The first so many values of `code.function.name` are a metric dimension."""

    origin_tracking: bool = _flag_of(default=False)
    """Whether Python remembers where each coroutine was made, so that one never awaited names its line."""

    capture_messages: bool = _flag_of(default=False)
    """Whether the messages of `cancel(msg)` leave the process."""

    dump_signal: signal.Signals | None = _setting(None, _signal, _from_signal)
    """The signal that prints the tree of live tasks."""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            try:
                checked = item.metadata["check"](value)
            except (_Invalid, TypeError) as error:
                wanted = error if isinstance(error, _Invalid) else "a sequence of strings"
                raise ValueError(f"otel_asyncio: setting {item.name}={value!r} is wrong: give {wanted}") from None
            object.__setattr__(self, item.name, checked)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **given: Any) -> Settings:
        """The settings of the environment (default: `os.environ`); `given` ones win over it.

        A wrong value in the environment does not stop the program: one warning names the variable, the value and the
        default that is used.
        """
        environ = os.environ if environ is None else environ
        for item in dataclasses.fields(cls):
            variable = PREFIX + item.name.upper()
            text = environ.get(variable, "").strip()
            if text and item.name not in given:
                try:
                    given[item.name] = item.metadata["check"](item.metadata["read"](text))
                except _Invalid as error:
                    logger.warning(
                        "otel_asyncio: %s=%r is wrong: give %s. Using the default, %r",
                        variable,
                        text,
                        error,
                        item.default,
                    )
        return cls(**given)
