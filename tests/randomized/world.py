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
from typing import TYPE_CHECKING, Any

from otel_asyncio.testing import AutojumpLoop
from randomized.facts import Facts

if TYPE_CHECKING:
    from otel_asyncio.observe.clock import Clock

# What differs from run to run of the very same program.
_ADDRESS = re.compile(r"0x[0-9a-f]+")
_TASK_NUMBER = re.compile(r"\bTask-(\d+)\b")
_CREATED_AT = re.compile(r" created at [^>]*>")
_NAME = re.compile(r" name='[^']*'")
NAMES_BECOME_NONE = (3, 13, 0) <= sys.version_info[:3] <= (3, 13, 2)

Event = tuple[Any, ...]


class Scripted:
    """What a loop on virtual time has beside: it knows every task it makes, and counts what it did."""

    world: World
    iterations = 0
    slow_callback = 0.002
    """Seconds from which on debug mode complains of a callback."""

    if TYPE_CHECKING:
        clock: Clock

        def spin(self, seconds: float) -> None: ...

    def now(self) -> int:
        return self.clock.monotonic_ns()

    def create_task(self, coro: Any, **kwargs: Any) -> Any:
        facts = self.world.facts_of(coro)
        self.world.created.append(facts)
        self.about_to_make(facts)
        try:
            task = super().create_task(coro, **kwargs)  # type: ignore[misc]
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


class ScriptedLoop(Scripted, AutojumpLoop):
    """On asyncio. Counts its turns."""

    def _run_once(self) -> None:
        self.iterations += 1
        super()._run_once()  # type: ignore[misc]


class Chronicle:
    """Everything that was seen and heard of one run, in its order."""

    def __init__(self, *, factory: bool, uvloop: bool = False) -> None:
        self.events: list[Event] = []
        self.factory, self.uvloop = factory, uvloop
        self._mentioned: list[int] = []

    def stable(self, text: str) -> str:
        """Text without addresses, and with tasks counted from the program's first; on uvloop, as they are mentioned.

        There a task with a name of its own takes a number as well before it gets its name, which ours does not.
        In debug mode what a factory has made is said to be created in the factory; ours says the program's line.
        """

        def renumber(match: re.Match[str]) -> str:
            number = int(match[1])
            if number not in self._mentioned:
                self._mentioned.append(number)
            return f"Task-{self._mentioned.index(number) if self.uvloop else number - self._mentioned[0]}"

        text = _TASK_NUMBER.sub(renumber, _ADDRESS.sub("0x", text))
        if self.factory:
            text = _CREATED_AT.sub(">", text)
        return _NAME.sub("", text) if self.factory and NAMES_BECOME_NONE else text


class World:
    """One run of one program."""

    def __init__(self, loop: Any, chronicle: Chronicle, *, debug: bool) -> None:
        self.chronicle = chronicle
        self.created: list[Facts] = []
        self.tasks: list[tuple[weakref.ref[Any], Facts]] = []
        self.kept: list[Any] = []
        self._facts: weakref.WeakKeyDictionary[Any, Facts] = weakref.WeakKeyDictionary()
        self._numbers = itertools.count()
        self.loop = loop
        loop.world = weakref.proxy(self)
        self.began = self.loop.now()
        self.loop.set_debug(debug)
        self.loop.slow_callback_duration = loop.slow_callback
        self.loop.set_exception_handler(self._handler)
        self.shared_context = contextvars.copy_context()
        self.variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")
        self.locks = [asyncio.Lock(), asyncio.Lock()]
        self.semaphore = asyncio.Semaphore(2)
        self.event = asyncio.Event()
        self.queue: asyncio.Queue[str] = asyncio.Queue(1)

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
        self.chronicle.events.append((self.loop.now() - self.began, who, what, *details, state))

    def task_name(self, task: Any) -> str:
        """The task's name. 3.13.0 to 3.13.2 call whatever a factory made "None" (gh-130033), which we do not."""
        return "" if self.chronicle.factory and NAMES_BECOME_NONE else self.chronicle.stable(task.get_name())

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
    return (
        type(error).__name__,
        args,
        _depth(error),
        describe(error.__cause__),
        type(error.__context__).__name__,
    )


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
def overheard(chronicle: Chronicle) -> Iterator[None]:
    """Write down what the program makes Python say: warnings, asyncio's log, what cannot be raised anywhere."""

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            chronicle.events.append(("log", record.levelname, chronicle.stable(record.getMessage())))

    def unraisable(args: Any) -> None:
        chronicle.events.append(("unraisable", describe(args.exc_value)))

    listener, log = Listener(), logging.getLogger("asyncio")
    before, sys.unraisablehook = sys.unraisablehook, unraisable
    log.addHandler(listener)
    propagate, log.propagate = log.propagate, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = _writer(chronicle)
            yield
    finally:
        sys.unraisablehook, log.propagate = before, propagate
        log.removeHandler(listener)


def _writer(chronicle: Chronicle) -> Callable[..., None]:
    def showwarning(message: Any, category: Any, *_: Any, **__: Any) -> None:
        # In debug mode a coroutine never awaited says where it was created, up to the loop: ours is on that way.
        text = str(message).partition("\nCoroutine created at")[0]
        chronicle.events.append(("warning", category.__name__, chronicle.stable(text)))

    return showwarning
