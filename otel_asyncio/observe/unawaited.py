"""Coroutines that nobody awaited: what Python warns of, with the line that made them and the task they were made in.

The finalizer of such a coroutine looks `warnings._warn_unawaited_coroutine` up and calls it (gen_close in
Objects/genobject.c, `_PyErr_WarnUnawaitedCoroutine`). In its place comes a function of the very same code whose `warn`
is ours: it notes the fact and passes the warning on. That is one frame more between the warning and the line it names,
so `stacklevel` is one more, too: the same line, the same filters, the same text, once for each line as ever. Where it
would name our own step, which stands between the loop and a task, it names the loop's line again; and where a compiled
step hides the frame of `Handle._run`, which it would name, it is named all the same.
"""

from __future__ import annotations

import asyncio
import dis
import sys
import warnings
from asyncio import events
from types import FunctionType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.chain import Frame
from otel_asyncio.observe.code import LOOPS_TURN, PACKAGE, describe, info_of, of_file
from otel_asyncio.observe.looks import runs_a_step
from otel_asyncio.observe.loops import nothing
from otel_asyncio.observe.observer import Guard
from otel_asyncio.observe.patching import is_stock, replace_shared
from otel_asyncio.observe.problems import Problem, ProblemKind
from otel_asyncio.observe.records import TaskRecord

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from otel_asyncio.observe.loops import LoopState
    from otel_asyncio.observe.observation import Observation

_HOOK = "_warn_unawaited_coroutine"
_ORIGIN = "Coroutine created at (most recent call last)"
_DEPTH = 1  # the line that calls the coroutine function: all that is told of it
_POP_TOP = dis.opmap["POP_TOP"]
_RUN = events.Handle._run.__code__

_tellers: list[Unawaited] = []


class Unawaited:
    """Notes the coroutines of one observation that nobody awaited.

    `tracking`: whether each coroutine is to note the line that made it (`sys.set_coroutine_origin_tracking_depth`),
    in the threads whose loops are observed. Without that the line is known only where the coroutine is dropped by the
    very statement that makes it, which is what a forgotten `await` does.
    """

    def __init__(self, observation: Observation, *, tracking: bool) -> None:
        self.observation = observation
        self.tracking = tracking
        self._guard = Guard("coroutines nobody awaited")

    def install(self) -> Callable[[], None]:
        """Look at what Python warns of; returns the way to stop."""
        hook = getattr(warnings, _HOOK, None)
        if not isinstance(hook, FunctionType) or not is_stock(hook, "cr_origin"):
            return nothing  # somebody else has taken its place
        undo = replace_shared(warnings, _HOOK, _make_hook)
        _tellers.append(self)
        undo_tracking = self._track_here()

        def stop() -> None:
            undo_tracking()
            _tellers.remove(self)
            undo()

        return stop

    def attend(self, _loop: Any, _state: LoopState) -> None:
        """A loop is seen for the first time, in the thread that runs it."""
        self._track_here()

    def _track_here(self) -> Callable[[], None]:
        """Have coroutines note in this thread from now on which line makes them, if that is wanted."""
        before = sys.get_coroutine_origin_tracking_depth()
        if not self.tracking or before:
            return nothing
        sys.set_coroutine_origin_tracking_depth(_DEPTH)

        def undo() -> None:
            if sys.get_coroutine_origin_tracking_depth() == _DEPTH:
                sys.set_coroutine_origin_tracking_depth(before)

        return undo

    def note(self, coro: Any, dropped: FrameType | None, running: Any) -> None:
        """Keep the fact until it is safe to speak: this is a finalizer. `running`: what runs here, if anything does."""
        if self._guard.failed:
            return
        try:
            self.observation.outbox.append(self._problem_of(coro, dropped, running))
        except Exception as failure:  # noqa: BLE001 - the border of the package
            self._guard.fail(failure)

    def _problem_of(self, coro: Any, dropped: FrameType | None, running: Any) -> Problem:
        code, qualname = describe(coro)
        now = self.observation.clock.wall_ns()
        what = f"coroutine '{qualname}' was never awaited"
        at = _made_at(coro.cr_origin) or _dropped_at(dropped)
        kind, record = ProblemKind.COROUTINE_NEVER_AWAITED, running if isinstance(running, TaskRecord) else None
        span = None if record is None else self.observation.sink.open_span(record, None)
        return Problem(kind, what, code, qualname, record, now, now, at=at, span=span)


def _made_at(origin: tuple[tuple[str, int, str], ...] | None) -> Frame | None:
    if not origin:
        return None
    file, line, function = origin[0]
    return Frame(of_file(file), line, function)


def _dropped_at(frame: FrameType | None) -> Frame | None:
    """The line that drops the coroutine, if it is a statement whose value nobody wants: then it made it, too."""
    if frame is None or frame.f_code.co_code[frame.f_lasti] != _POP_TOP:
        return None
    code = frame.f_code
    return Frame(info_of(code, frame.f_globals.get("__name__")), frame.f_lineno, code.co_qualname)


def _make_hook(original: Any) -> Any:
    """The function that Python's finalizers call, with `warn` in our hands."""

    def warn(message: str, *, category: type[Warning], stacklevel: int, source: Any) -> None:
        dropped = sys._getframe(1).f_back
        _tell(source, dropped)
        if any(teller.tracking for teller in _tellers) and len(source.cr_origin or ()) <= _DEPTH:
            message = message.partition(f"\n{_ORIGIN}")[0]  # the program has not asked for it
        while dropped is not None and dropped.f_code.co_filename.startswith(PACKAGE):
            dropped, stacklevel = dropped.f_back, stacklevel + 1
        hidden = dropped is not None and dropped.f_code.co_name == LOOPS_TURN and _is_below_compiled_step(dropped)
        dropped = None  # a frame that leads to itself is a cycle
        if hidden:
            registry = vars(events).setdefault("__warningregistry__", {})
            line, module = _line_of_run(), events.__name__
            warnings.warn_explicit(message, category, _RUN.co_filename, line, module, registry, source=source)
        else:
            warnings.warn(message, category=category, stacklevel=stacklevel + 1, source=source)

    # `warn` up to 3.13, `_wm.warn` from 3.14 on.
    names = {**original.__globals__, "warn": warn, "_wm": SimpleNamespace(warn=warn)}
    hook = FunctionType(original.__code__, names, original.__name__, original.__defaults__, original.__closure__)
    hook.__module__, hook.__qualname__, hook.__doc__ = original.__module__, original.__qualname__, original.__doc__
    return hook


def _is_below_compiled_step(turn: FrameType) -> bool:
    state: LoopState | None = getattr(asyncio._get_running_loop(), "_otel_asyncio", None)
    return state is not None and runs_a_step(turn, state)


def _line_of_run() -> int:
    """Where `Handle._run` calls the callback."""
    for instruction in dis.get_instructions(_RUN):
        if instruction.argval == "run" and instruction.positions is not None:
            return instruction.positions.lineno or _RUN.co_firstlineno
    return _RUN.co_firstlineno


def _tell(coro: Any, dropped: FrameType | None) -> None:
    """The observation of the loop that runs here hears of it; where none runs, that of the process."""
    state: LoopState | None = getattr(asyncio._get_running_loop(), "_otel_asyncio", None)
    running = None if state is None else state.running
    for teller in _tellers:
        observation = teller.observation
        if observation is state.observation if state is not None else observation.process_wide:
            teller.note(coro, dropped, running)
