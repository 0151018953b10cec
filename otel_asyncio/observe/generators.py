"""Async generators that were left open with something still to clean up, by a statement that let go of them.

Python tells a loop of each async generator when it is first asked for an item, and when the last reference to one that
is still open goes (`sys.set_asyncgen_hooks`, PEP 525); asyncio then closes it in a task of its own, a turn later. That
is nobody's problem where nothing waits to be cleaned up, nor where an exception or a cancellation has unwound what was
iterating. It is one where a `break`, a `return` or an assignment of the iterating function has just dropped it: its
`finally` runs in another task than the one that thinks it is over.
"""

from __future__ import annotations

import asyncio
import dis
import sys
import weakref
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, TypeAlias

from otel_asyncio.observe.chain import Frame
from otel_asyncio.observe.code import info_of
from otel_asyncio.observe.observer import Guard
from otel_asyncio.observe.patching import replace
from otel_asyncio.observe.problems import Problem, ProblemKind
from otel_asyncio.observe.sites import Site

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType

    from otel_asyncio.observe.loops import LoopState
    from otel_asyncio.observe.observation import Observation

_FIRST, _LAST = "_asyncgen_firstiter_hook", "_asyncgen_finalizer_hook"
_KEPT = 10_000
_NESTED = 20
# The instructions with which a statement lets go of something: the end of a loop, an assignment, `del`.
_LETS_GO = frozenset(
    code for name, code in dis.opmap.items() if name.startswith(("POP_TOP", "POP_ITER", "STORE_", "DELETE_"))
)


_Opened: TypeAlias = "tuple[CodeType, int, int]"
"""Where a generator was first asked for an item, code and instruction, and when (monotonic clock, ns)."""


class Generators:
    """The open async generators of one observation's loops.

    By the ids of the generators: one that is open keeps its id, and the next with the same id takes its place here.
    """

    def __init__(self, observation: Observation) -> None:
        self._observation = observation
        self._opened: dict[int, _Opened] = {}
        self._guard = Guard("async generators")

    def install(self, cls: Any) -> list[Callable[[], None]]:
        """Hear what loops of a class are told, from when they run next."""
        first, last, note = getattr(cls, _FIRST), getattr(cls, _LAST), self._make_note()

        def opened(loop: Any, generator: Any) -> None:
            note(generator)
            first(loop, generator)

        def dropped(loop: Any, generator: Any) -> None:
            self._look(generator, sys._getframe(1))
            last(loop, generator)

        return [partial(_withdraw, opened), replace(cls, _FIRST, opened), replace(cls, _LAST, dropped)]

    def install_on(self, loop: Any) -> list[Callable[[], None]]:
        """Hear what one loop is told, which is held weakly."""
        ref, first, last = weakref.ref(loop), getattr(type(loop), _FIRST), getattr(type(loop), _LAST)
        note = self._make_note()

        def opened(generator: Any) -> None:
            note(generator)
            first(ref(), generator)

        def dropped(generator: Any) -> None:
            self._look(generator, sys._getframe(1))
            if (alive := ref()) is not None:
                last(alive, generator)

        return [partial(_withdraw, opened), replace(loop, _FIRST, opened), replace(loop, _LAST, dropped)]

    def attend(self, loop: Any, _state: LoopState) -> None:
        """A loop is taken in. One that runs already has told Python what to call."""
        if getattr(sys.get_asyncgen_hooks().firstiter, "__self__", None) is loop:
            _tell_python(loop)

    def _make_note(self) -> Callable[[Any], None]:
        """What every generator of the program comes by, once: it has all it needs at hand."""
        opened, now, caller = self._opened, self._observation.clock.monotonic_ns, sys._getframe

        def note(generator: Any) -> None:
            if len(opened) >= _KEPT:
                opened.clear()
            frame = caller(2)
            opened[id(generator)] = frame.f_code, frame.f_lasti, now()

        return note

    def _look(self, generator: Any, frame: FrameType) -> None:
        """A generator is about to go that is still open. This is a finalizer."""
        opened = self._opened.pop(id(generator), None)
        if opened is None or frame.f_code is not opened[0] or self._guard.failed:
            return
        try:
            if frame.f_code.co_code[frame.f_lasti] in _LETS_GO and _has_to_clean_up(generator):
                self._observation.outbox.append(self._problem_of(generator, opened, frame))
        except Exception as failure:  # noqa: BLE001 - the border of the package
            self._guard.fail(failure)

    def _problem_of(self, generator: Any, opened: _Opened, frame: FrameType) -> Problem:
        clock, record = self._observation.clock, self._observation.running_record()
        code_object, instruction, moment = opened
        now, line = clock.wall_ns(), Site(code_object, instruction).line
        code = info_of(code_object, frame.f_globals.get("__name__"))
        what = f"async generator '{generator.__qualname__}' was left open at line {frame.f_lineno}"
        at, kind = Frame(code, line, code_object.co_qualname), ProblemKind.ASYNCGEN_NOT_CLOSED
        span = None if record is None else self._observation.sink.open_span(record, None)
        start = now - (clock.monotonic_ns() - moment)
        return Problem(kind, what, code, at.qualname, record, start, now, at=at, span=span)


def _tell_python(loop: Any) -> None:
    """As `run_forever` does it when a loop begins to run."""
    sys.set_asyncgen_hooks(getattr(loop, _FIRST), getattr(loop, _LAST))


def _withdraw(opened: Any) -> None:
    """Have Python call what it called before us, in the loop that runs here. Others do when they stop running."""
    told, loop = sys.get_asyncgen_hooks().firstiter, asyncio._get_running_loop()
    if loop is not None and getattr(told, "__func__", told) is opened:
        _tell_python(loop)


def _has_to_clean_up(generator: Any) -> bool:
    frame = generator.ag_frame
    return frame is not None and _cleans_up(generator.ag_code, frame.f_lasti)


@lru_cache(maxsize=1000)
def _cleans_up(code: CodeType, offset: int) -> bool:
    """Whether a GeneratorExit at this instruction comes by a `finally`, a `with` or an `except` that takes everything.

    By the table of handlers (`Objects/exception_handling_notes.txt` of CPython, 3.11 and later).
    """
    table: Any = dis._parse_exception_table(code)  # type: ignore[attr-defined]
    instructions = {each.offset: each for each in dis.get_instructions(code)}
    for _ in range(_NESTED):
        target = next((entry.target for entry in table if entry.start <= offset < entry.end), None)
        if target is None:
            return False
        if _is_cleanup([each.opname for at, each in sorted(instructions.items()) if at >= target][:8]):
            return True
        offset = target
    return False


def _is_cleanup(handler: list[str]) -> bool:
    """Whether a handler does more than to look for one kind of exception, or to hand on what it has got."""
    if handler[0] != "PUSH_EXC_INFO":
        return False  # the end of another handler, or what makes a RuntimeError of a StopIteration
    for name in handler[1:]:
        if name in ("CHECK_EXC_MATCH", "CHECK_EG_MATCH", "RERAISE"):
            return False
        if not name.startswith(("LOAD_", "BUILD_TUPLE", "NOP", "EXTENDED_ARG")):
            return True
    return True
