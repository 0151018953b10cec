"""What a generated program runs in: a loop on virtual time, and a history of everything the program can observe."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import logging
import re
import sys
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from otel_asyncio.testing import AutojumpLoop

# What differs from run to run of the very same program.
_ADDRESS = re.compile(r"0x[0-9a-f]+")
_TASK_NUMBER = re.compile(r"\bTask-(\d+)\b")
_CREATED_AT = re.compile(r" created at [^>]*>")
_NAME = re.compile(r" name='[^']*'")
NAMES_BECOME_NONE = (3, 13, 0) <= sys.version_info[:3] <= (3, 13, 2)

NO_TASK = -1

Event = tuple[Any, ...]


class Facts:
    """One coroutine of the program: its name in the history, and what its task did according to the script."""

    def __init__(self, label: str, creator: Facts | None = None) -> None:
        self.label = label
        self.creator = creator
        self.created_turn = NO_TASK
        self.name: str | None = None
        self.outcome = "pending"
        self.created = self.ended = self.suspended = 0
        self.busy = self.scheduled = self.steps = self.max_step = 0
        self.first_step: int | None = None

    def spun(self, nanoseconds: int, turn: int) -> None:
        """Busy time is also that of whoever is starting this task eagerly, in the middle of a step of their own.

        What was awaited without becoming a task is part of its creator.
        """
        facts: Facts | None = self
        while facts is not None:
            facts.busy += nanoseconds
            facts = facts.creator if facts.created_turn in (turn, NO_TASK) else None


class ScriptedLoop(AutojumpLoop):
    """Counts its turns, and knows every task it makes."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = weakref.proxy(world)
        self.iterations = 0

    def now(self) -> int:
        return self.clock.monotonic_ns()

    def _run_once(self) -> None:
        self.iterations += 1
        super()._run_once()  # type: ignore[misc]

    def create_task(self, coro: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        facts = self.world.facts_of(coro)
        self.world.created.append(facts)
        self.about_to_make(facts)
        try:
            task = super().create_task(coro, **kwargs)
        except (SystemExit, KeyboardInterrupt):
            self.exited(facts)
            raise
        except BaseException:
            self.world.created.remove(facts)  # refused
            raise
        self.world.tasks.append((weakref.ref(task), facts))
        self.made(task, facts)
        return task

    def about_to_make(self, facts: Facts) -> None: ...

    def made(self, task: Any, facts: Facts) -> None: ...

    def exited(self, facts: Facts) -> None: ...


class _TimedHandle(asyncio.Handle):
    """A handle that knows since when it is ready, and tells the loop when it runs."""

    __slots__ = ("ready",)

    def _run(self) -> None:
        loop: Any = self._loop  # type: ignore[attr-defined]
        task = getattr(self._callback, "__self__", None)  # type: ignore[attr-defined]
        started = loop.now()
        loop.turn += 1
        try:
            super()._run()  # type: ignore[misc]
        finally:
            if isinstance(task, asyncio.Task) and _is_step(self._callback):  # type: ignore[attr-defined]
                loop.stepped(task, self.ready, started)
            task = self = None  # type: ignore[assignment] # a traceback leads here: no way on to the task


def _outcome(task: asyncio.Task[Any]) -> str:
    error = None if task.cancelled() else task._exception  # exception() would mark it as retrieved
    if isinstance(error, (SystemExit, KeyboardInterrupt)):
        return "exit"
    return "cancellation" if task.cancelled() else "success" if error is None else "error"


def _is_step(callback: Any) -> bool:
    return type(callback).__name__ == "TaskStepMethWrapper" or getattr(callback, "__name__", "") == "task_wakeup"


class WitnessLoop(ScriptedLoop):
    """Takes down when each step became ready and ran, by means that have nothing to do with the package's.

    Its handles do it, where the package puts another callback into asyncio's own.
    """

    turn = 0

    def _call_soon(self, callback: Any, args: Any, context: Any) -> _TimedHandle:
        handle = _TimedHandle(callback, args, self, context)
        handle.ready = self.now()
        self._ready.append(handle)  # type: ignore[attr-defined]
        return handle

    def about_to_make(self, facts: Facts) -> None:
        facts.created = facts.suspended = self.now()
        facts.created_turn = self.turn

    def made(self, task: Any, facts: Facts) -> None:
        task._facts = facts
        facts.suspended = self.now()
        if self.is_running() and self.get_task_factory() is not None:  # an eager one: there is no other here
            facts.first_step = facts.created
            self._count_step(facts, facts.created)
        if task.done():
            self._note_end(task, facts)

    def exited(self, facts: Facts) -> None:
        """An exit came out of the first step of an eager task, which nobody gets to see."""
        facts.first_step, facts.outcome, facts.ended = facts.created, "exit", self.now()
        self._count_step(facts, facts.created)

    def stepped(self, task: Any, ready: int, started: int) -> None:
        facts: Facts = task._facts
        if facts.first_step is None:
            facts.first_step = started
        facts.scheduled += started - max(ready, facts.suspended)
        facts.suspended = self.now()
        self._count_step(facts, started)
        if task.done():
            self._note_end(task, facts)

    def _count_step(self, facts: Facts, started: int) -> None:
        facts.steps += 1
        facts.max_step = max(facts.max_step, self.now() - started)

    def _note_end(self, task: Any, facts: Facts) -> None:
        facts.name, facts.outcome, facts.ended = task.get_name(), _outcome(task), self.now()

    def close(self) -> None:
        """What is pending now stays so; what was ready has waited for the loop until here."""
        waiting = {handle._callback.__self__: handle for handle in self._ready if _is_step(handle._callback)}  # type: ignore[attr-defined]
        for task, facts in self.world.alive():
            if not task.done():
                facts.name, facts.ended = task.get_name(), self.now()
                if task in waiting:
                    facts.scheduled += self.now() - max(waiting[task].ready, facts.suspended)
        super().close()


class World:
    """One run of one program."""

    def __init__(self, loop_class: type[ScriptedLoop], *, factory: bool, debug: bool) -> None:
        self.factory = factory
        self.history: list[Event] = []
        self.created: list[Facts] = []
        self.tasks: list[tuple[weakref.ref[Any], Facts]] = []
        self.kept: list[Any] = []
        self._facts: weakref.WeakKeyDictionary[Any, Facts] = weakref.WeakKeyDictionary()
        self._numbers = itertools.count()
        self.base: int | None = None
        self.loop = loop_class(self)
        self.began = self.loop.now()
        self.loop.set_debug(debug)
        self.loop.slow_callback_duration = 0.002
        self.loop.set_exception_handler(self._handler)
        self.shared_context = contextvars.copy_context()
        self.variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")
        self.locks = [asyncio.Lock(), asyncio.Lock()]
        self.semaphore = asyncio.Semaphore(2)
        self.event = asyncio.Event()
        self.queue: asyncio.Queue[str] = asyncio.Queue(1)

    def let_go(self) -> None:
        """Forget all that tasks may hang on."""
        self.kept.clear()
        self.locks, self.semaphore, self.event, self.queue = [], asyncio.Semaphore(2), asyncio.Event(), asyncio.Queue()

    def register(self, coro: Any, facts: Facts) -> Any:
        """From now on this coroutine has these facts."""
        self._facts[coro] = facts
        return coro

    def new_facts(self, creator: Facts | None) -> Facts:
        return Facts(f"c{next(self._numbers)}", creator)

    def alive(self) -> list[tuple[Any, Facts]]:
        """The tasks that are not gone, in the order in which they were made."""
        return [(task, facts) for ref, facts in self.tasks if (task := ref()) is not None]

    def facts_of(self, coro: Any) -> Facts:
        """The facts of a coroutine of the program, or new ones for one of asyncio's own, which never spins."""
        return self._facts.get(coro) or Facts(coro.__qualname__)

    def log(self, who: str, what: str, *details: Any) -> None:
        """Write one event down."""
        task = asyncio.current_task() if asyncio._get_running_loop() else None
        state = None if task is None else (self.task_name(task), task.cancelling())
        self.history.append((self.loop.now() - self.began, who, what, *details, state))

    def task_name(self, task: Any) -> str:
        """The task's name. 3.13.0 to 3.13.2 call whatever a factory made "None" (gh-130033), which we do not."""
        return "" if self.factory and NAMES_BECOME_NONE else self.stable(task.get_name())

    def stable(self, text: str) -> str:
        """Text without addresses, and with tasks counted from the program's first.

        In debug mode what a factory has made is said to be created in the factory; ours says the program's line.
        """

        def renumber(match: re.Match[str]) -> str:
            number = int(match[1])
            if self.base is None:
                self.base = number
            return f"Task-{number - self.base}"

        text = _TASK_NUMBER.sub(renumber, _ADDRESS.sub("0x", text))
        if self.factory:
            text = _CREATED_AT.sub(">", text)
        return _NAME.sub("", text) if self.factory and NAMES_BECOME_NONE else text

    def _handler(self, _: Any, context: dict[str, Any]) -> None:
        task = context.get("task") or context.get("future")
        name = self.task_name(task) if isinstance(task, asyncio.Task) else None
        self.log("handler", context["message"], describe(context.get("exception")), name)


def describe(error: BaseException | None) -> Any:
    """An exception as far as a program can tell it from another: type, args, traceback, and what led to it."""
    if error is None:
        return None
    inner = tuple(map(describe, error.exceptions)) if isinstance(error, BaseExceptionGroup) else None
    args = _ADDRESS.sub("", repr(error.args)) if inner is None else inner
    return type(error).__name__, args, _depth(error), describe(error.__cause__), type(error.__context__).__name__


def _depth(error: BaseException) -> int:
    """How many frames the traceback has.

    Only the program's own frames of what does not come from the program itself: an exit goes on through the loop,
    and so through the package's step; that a loop is closed is said by its `call_soon`.
    """
    frames = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    if isinstance(error, (SystemExit, KeyboardInterrupt, RuntimeError)):
        frames = [file for file in frames if file.endswith("programs.py")]
    return len(frames)


@contextmanager
def overheard(world: World) -> Iterator[None]:
    """Write down what the program makes Python say: warnings, asyncio's log, what cannot be raised anywhere."""

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            world.history.append(("log", record.levelname, world.stable(record.getMessage())))

    def unraisable(args: Any) -> None:
        world.history.append(("unraisable", describe(args.exc_value)))

    listener, log = Listener(), logging.getLogger("asyncio")
    before, sys.unraisablehook = sys.unraisablehook, unraisable
    log.addHandler(listener)
    propagate, log.propagate = log.propagate, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = _writer(world)
            yield
    finally:
        sys.unraisablehook, log.propagate = before, propagate
        log.removeHandler(listener)


def _writer(world: World) -> Callable[..., None]:
    def showwarning(message: Any, category: Any, *_: Any, **__: Any) -> None:
        world.history.append(("warning", category.__name__, world.stable(str(message))))

    return showwarning
