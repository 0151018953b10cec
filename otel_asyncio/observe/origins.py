"""From the frame that calls `cancel()` to the cause: which part of asyncio or anyio asks, and on whose behalf.

A frame is known by its code object. Each rule takes what it knows from its frame and either has the answer (None) or
says where to look on. The functions named here were read in CPython 3.11 to 3.15; one that a release does not have is
left out of the table.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.cancellation import Origin, Stage, Via
from otel_asyncio.observe.chain import walk
from otel_asyncio.observe.code import PACKAGE, info_of
from otel_asyncio.observe.frames import cancelled_below, deals_with_cancellation, line_of_the_program, stack_of
from otel_asyncio.observe.signals import HANDLING
from otel_asyncio.observe.sites import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import CodeType, FrameType

    from otel_asyncio.observe.cancellation import Cancellation, Request
    from otel_asyncio.observe.loops import LoopState
    from otel_asyncio.observe.observer import Sink

    Rule = Callable[[FrameType, Request, LoopState], FrameType | None]

TELLS_CONTEXT = hasattr(asyncio.Task, "get_context")
"""3.12 and later; before, the context of a task can be looked at only while it runs."""

_FARTHEST = 200
_HANDLE_RUN = asyncio.Handle._run.__code__
_RUNS_A_LOOP = {"run_until_complete", "run_forever"}


class Origins:
    """The table of rules, by the identity of the code that asks."""

    def __init__(self, rules: Iterable[tuple[Any, Rule]]) -> None:
        self._rules: dict[int, Rule] = {}
        self._known: list[CodeType] = []  # kept, so that an identity stays its own
        for function, rule in rules:
            self.add(function, rule)

    def add(self, function: Any, rule: Rule) -> None:
        """A rule for a function; nothing where this release does not have it, or has it in C."""
        code = getattr(function, "__code__", None)
        if code is not None:
            self.add_code(code, rule)

    def add_code(self, code: CodeType, rule: Rule) -> None:
        """A rule for the frames of this code."""
        self._known.append(code)
        self._rules[id(code)] = rule

    def find(self, frame: FrameType | None, request: Request, state: LoopState) -> None:
        """Fill in who asks, from the frame that calls `cancel()` outwards."""
        inner, rules = frame, self._rules
        if frame is not None and id(frame.f_code) not in rules and _by_its_own_step(frame, request, state):
            return
        for _ in range(_FARTHEST):
            if frame is None:
                break
            rule = rules.get(id(frame.f_code))
            if rule is not None:
                frame = rule(frame, request, state)
                if frame is None:
                    return
                continue
            info = info_of(frame.f_code, frame.f_globals.get("__name__"))
            if info.entry_point or frame.f_code is HANDLING or _is_below_the_loop(frame, state):
                _by_a_callback(frame, request, state)
                if request.site is None and inner is not frame and inner is not None and not _is_ours(inner):
                    request.site = Site(inner.f_code, inner.f_lasti)  # a library's own line: there is no other
                return
            if not info.internal:
                _explicitly(frame, request, state)
                return
            frame = frame.f_back
        request.by = state.running


def follow_running(request: Request, state: LoopState) -> bool:
    """Whether the task that runs now asks because it is being cancelled itself; then that is where it comes from."""
    running = state.running
    cancellation = getattr(running, "cancellation", None)
    if cancellation is None or cancellation.stage is Stage.SETTLED or running is request.owner:
        return False
    if not deals_with_cancellation(sys.exception()):
        return False
    cause = cancellation.first
    request.follows(cause)
    request.expected = cause.expected and _made(running, request.owner)
    return True


def _made(maker: Any, record: Any) -> bool:
    """Whether one task made the other; true where nobody kept it, and of a whole scope."""
    return record is None or not record.timed or (maker is not None and maker.timed and maker.id == record.creator)


def _made_by_the_same(code: CodeType, record: Any) -> bool:
    """Whether a method of the class that asks has made the task, in a callback: no task was its maker then.

    A protocol begins the task of a connection in `connection_made`, and ends it in `connection_lost`.
    """
    site: Site | None = None if record.creator else record.site
    if site is None or site.code.co_filename != code.co_filename:
        return False
    cls, _, _ = code.co_qualname.rpartition(".")
    return cls != "" and cls == site.code.co_qualname.rpartition(".")[0]


def _explicitly(frame: FrameType, request: Request, state: LoopState) -> None:
    request.site = Site(frame.f_code, frame.f_lasti)
    if state.runs_elsewhere():
        request.origin, request.thread = Origin.THREAD, threading.current_thread().name
        return
    request.by = state.running
    if follow_running(request, state):
        return
    if state.running is None and _is_signal_handler(frame, state):
        request.origin = Origin.SIGNAL
    else:
        error = sys.exception()
        clean = error is None or not isinstance(error, Exception)
        owner = request.owner
        request.expected = clean and (
            _made(state.running, owner) or request.scope != 0 or _made_by_the_same(frame.f_code, owner)
        )


def _is_signal_handler(frame: FrameType | None, state: LoopState) -> bool:
    """Whether the callback that this frame runs in was given to `add_signal_handler`."""
    for _ in range(_FARTHEST):
        if frame is None or frame.f_code in (_HANDLE_RUN, HANDLING):
            break
        frame = frame.f_back
    if frame is None or frame.f_code is HANDLING:
        return frame is not None
    handle = frame.f_locals.get("self")
    return any(handle is each for each in state.signal_handlers())


def _is_ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(PACKAGE)


def _is_below_the_loop(frame: FrameType, state: LoopState) -> bool:
    """Whether this is the frame that runs uvloop, and no task of it."""
    return state.running is None and _runs_uvloop(frame, state)


def _runs_uvloop(frame: FrameType, state: LoopState) -> bool:
    """Whether this is the frame that runs uvloop, whose own frames do not show."""
    return (
        state.implementation == "uvloop"
        and not _RUNS_A_LOOP.isdisjoint(frame.f_code.co_names)
        and asyncio._get_running_loop() is not None
    )


def _by_a_callback(frame: FrameType, request: Request, state: LoopState) -> None:
    """`cancel` itself is the callback, or a library's: from another thread, of a signal, of a timer."""
    request.by = state.running
    handed = state.handed.pop(request.task_id, None)
    if handed is not None:
        request.origin = Origin.THREAD
        request.site, request.thread = handed
    elif _is_signal_handler(frame, state):
        request.origin = Origin.SIGNAL
        request.expected = True


def look_closely(
    cancellation: Cancellation, task: Any, request: Request, frame: FrameType, sink: Sink, depth: int
) -> None:
    """Who asks, by a stack; where it hits, by the chain of awaits; in which span. At most `depth` frames of each."""
    record = request.owner
    if request.root is request and request.origin in (Origin.EXPLICIT, Origin.THREAD):
        request.stack = stack_of(frame, depth)
        if request.by is not None and request.by is request.by.loop.running:
            request.open_span = sink.open_span(request.by, None)
    # Of one that was started eagerly past us no step was seen.
    if record.step_started == 0 and (record.steps or getattr(task.get_coro(), "cr_suspended", False)):
        cancellation.hit = walk(task, depth)
    if TELLS_CONTEXT:
        cancellation.parent = sink.open_span(record, task.get_context())


def note_who_hands_over(loop: Any, callback: Any) -> None:
    """`call_soon_threadsafe` of a task's `cancel`, from another thread: whose line that is."""
    task = getattr(callback, "__self__", None)
    state: LoopState | None = getattr(loop, "_otel_asyncio", None)
    if state is not None and isinstance(task, asyncio.Task) and state.runs_elsewhere():
        state.handed[id(task)] = line_of_the_program(sys._getframe(1)), threading.current_thread().name


def forget_who_hands_over(task: Any) -> None:
    """The task had ended before the `cancel` came that was handed over: its id may soon be another one's."""
    state: LoopState | None = getattr(task.get_loop(), "_otel_asyncio", None)
    if state is not None and state.handed:
        state.handed.pop(id(task), None)


def asked_by_nobody(request: Request, task: Any, future: Any) -> None:
    """The CancelledError was raised in the task, or came from what it awaited; its step was woken with `future`."""
    request.origin = Origin.UNKNOWN if task.cancelling() else Origin.SELF
    request.expected = request.origin is Origin.SELF  # a server's connection ends like that, with its future
    awaited = cancelled_below(future)
    below = getattr(awaited, "_otel_asyncio", None)
    if below is not None and below.cancellation is not None:
        request.follows(below.cancellation.first)
        request.via, request.expected = Via.AWAITED, False
        request.by = below if below.timed else None


def handed_on(frame: FrameType, request: Request, state: LoopState) -> None:
    """Our own frame: an awaiting task was cancelled, and cancels what it waits for."""
    request.via = request.via or Via.AWAITER
    outer = state.cancelling
    if outer is not None:
        _hand_on(outer, request)


def _hand_on(outer: Request, request: Request) -> None:
    request.follows(outer)
    request.by = outer.owner if outer.owner.timed else None
    request.site = outer.root.site
    request.expected = outer.expected and _made(outer.owner, request.owner)


def _by_its_own_step(frame: FrameType, request: Request, state: LoopState) -> bool:
    """Whether the running task hands on what was asked of it while it ran: to what it awaits next, by its step.

    That is C, so that the call has no frame: above it is our own, or the one that runs the loop.
    """
    running = state.running
    cancellation = getattr(running, "cancellation", None)
    if running is None or cancellation is None or cancellation.stage is Stage.SETTLED:
        return False
    above = _is_ours(frame) or info_of(frame.f_code, frame.f_globals.get("__name__")).entry_point
    if running is request.owner or not running.step_started or not (above or _runs_uvloop(frame, state)):
        return False
    request.via = Via.AWAITER
    _hand_on(cancellation.first, request)
    return True
