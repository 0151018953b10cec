"""What hangs: the facts that are reported, and how long waits at each line have taken when they ended."""

from __future__ import annotations

import re
from fnmatch import translate
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextvars import Context

    from otel_asyncio.observe.chain import Chain, Frame
    from otel_asyncio.observe.hands import Work
    from otel_asyncio.observe.records import TaskRecord
    from otel_asyncio.observe.resources import Hold

_MOST_LINES = 4096
_FOREVER = ("anyio.sleep_forever",)  # says itself that it waits for nothing

Key = tuple[str | None, int, str]
"""Where a task waits, and for what: file, line, target."""


class Hang(NamedTuple):
    """One wait that lasts. Times are monotonic nanoseconds."""

    record: TaskRecord
    since: int
    """When the task was suspended."""
    chain: Chain
    resource: str | None
    """The type of the lock, queue or other resource that is waited for."""
    hold: Hold | None
    """Who holds the lock that is waited for."""
    parent: Any
    """The innermost span open in the task, as the reporter has told it; None where only the task's own can be."""
    patience: int
    """From how long on such a wait hangs."""
    work: Work | None = None
    """Where the thread stands that works on what is waited for."""

    @property
    def key(self) -> Key:
        """What waits like this are told together by."""
        return key_of(self.chain)


class Stuck(NamedTuple):
    """Waits at one line that do not end, told while they last."""

    hang: Hang
    """The oldest one."""
    start: int
    """From when on this report covers: the beginning, or the report before."""
    end: int
    report: int
    """1, 2, …"""
    tasks: int
    """How many tasks wait there."""


class Member(NamedTuple):
    """One task of a deadlock."""

    record: TaskRecord | None
    qualname: str
    since: int | None
    chain: Chain
    resource: str | None
    hold: Hold | None
    """Of the lock that it waits for; None where it awaits the next task itself."""
    parent: Any


class Deadlock(NamedTuple):
    """Tasks each of which waits for the next, and the last for the first."""

    members: tuple[Member, ...]
    youngest: int
    """Which of them waits for the shortest time: it closed the circle."""
    since: int
    now: int


class StuckReporter(Protocol):
    """Receives what hangs. May raise: each call is guarded."""

    def parent(self, record: TaskRecord, context: Context | None) -> Any:
        """The innermost recorded span of the program open in a suspended task, or its own below one; else None."""
        ...

    def stuck(self, stuck: Stuck) -> None:
        """A wait lasts."""
        ...

    def deadlocked(self, deadlock: Deadlock) -> None:
        """Tasks wait for each other."""
        ...


def key_of(chain: Chain) -> Key:
    """Where a chain waits, and for what."""
    at = chain.blame or (chain.frames[-1] if chain.frames else None)
    return (None, 0, chain.target) if at is None else (at.code.file, at.line, chain.target)


class History:
    """The longest wait that was seen to end at each line. Only those that can excuse a longer one are noted.

    `least`: from how many nanoseconds on a wait is noted.
    """

    def __init__(self, least: int) -> None:
        self.least = least
        self._longest: dict[Key, int] = {}

    def completed(self, key: Key, lasted: int) -> None:
        """A wait is over, and nobody has cancelled it."""
        if lasted > self._longest.get(key, 0):
            self._longest[key] = lasted
            if len(self._longest) > _MOST_LINES:
                del self._longest[next(iter(self._longest))]

    def longest(self, key: Key) -> int:
        """Nanoseconds; 0 where none was noted."""
        return self._longest.get(key, 0)


def idle_matcher(globs: Iterable[str]) -> Callable[[Chain], bool]:
    """Whether a chain waits for what may be waited for without end.

    A glob matches the target, or the qualified name of any function in the chain, with or without its module: a
    server's own `WebSocketResponse.receive` is `*.receive`, whatever it is made of.
    """
    pattern = "|".join(translate(glob) for glob in (*globs, *_FOREVER))
    match = re.compile(pattern).match

    def is_idle(chain: Chain) -> bool:
        return match(chain.target) is not None or any(_matches(frame) for frame in chain.frames)

    def _matches(frame: Frame) -> bool:
        name = frame.qualname
        return match(name) is not None or match(f"{frame.code.module}.{name}") is not None

    return is_idle
