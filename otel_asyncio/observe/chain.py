"""The chain of awaits below a suspended task: which lines wait, for what, and the line to blame.

A suspended coroutine leads on to what it awaits: `cr_await`, `gi_yieldfrom`, `ag_await`. Between an async generator and
whoever iterates it lie objects that tell nothing (`async_generator_asend`, `anext_awaitable`, `coroutine_wrapper`); the
garbage collector knows what they hold. So does it for `FutureIter`, the end of every chain in C.

Everything here only reads. It may be called from any thread that has the GIL, also while the task runs: then the
chain is as much of it as can be seen. Nothing that a chain keeps leads to a frame, a coroutine or a future.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import sys
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_asyncio.observe.code import CodeInfo, describe, info_of
from otel_asyncio.observe.sites import Site

if TYPE_CHECKING:
    from collections.abc import Iterable

# How far a chain is followed. Deeper than any program that Python's own recursion limit lets run.
_FARTHEST = 2_000
_DEEP = 64  # from where on it is made sure that a chain does not lead round in a circle

_MOST_FRAMES = 4_096

_OPAQUE = {"async_generator_asend", "async_generator_athrow", "anext_awaitable", "coroutine_wrapper", "FutureIter"}
GATHERING: Any = asyncio.tasks._GatheringFuture  # type: ignore[attr-defined]

# Both kinds at once: nest_asyncio puts the one in Python where the other was.
TASKS: Any = (asyncio.Task, asyncio.tasks._PyTask)  # type: ignore[attr-defined]
_FUTURES: Any = (asyncio.Future, asyncio.futures._PyFuture)  # type: ignore[attr-defined]
_AWAITABLE = {CoroutineType, GeneratorType, AsyncGeneratorType, *_FUTURES, *TASKS}
_SHIELD = "shield.<locals>._outer_done_callback"

# Library functions that only pass on a wait for something else: who reads of a wait means that other thing.
_PASSING_ON = {"wait_for", "_ContextManagerMixin.__aenter__"}
_UNNAMED = ("__aenter__", "__aexit__", "__await__", "__anext__", "__iter__")
_READERS_WORDS = {"_AsCompletedIterator._wait_for_one": "asyncio.as_completed", "as_completed": "asyncio.as_completed"}
# Whatever was called, it has not begun: below a Condition.wait that was notified, before a thread of anyio's is free.
_WAITING_TO_BEGIN = {"Lock.acquire", "CapacityLimiter.acquire"}

# Until 3.12 wait_for makes a task of what it is given, so that the chain would end there.
_SPLIT_WAIT_FOR = asyncio.wait_for.__code__ if sys.version_info < (3, 12) else None


class Frame(NamedTuple):
    """One function on a stack or in a chain: its code, the line it stands on, its qualified name."""

    code: CodeInfo
    line: int
    qualname: str


_frames: dict[tuple[int, int], Frame] = {}
"""By the id of a code object and the instruction: chains have two dozen, and they are the same again and again. Each
keeps its code, so that the id remains its own."""


class Chain(NamedTuple):
    """What a suspended task waited on, as it stood."""

    frames: tuple[Frame, ...]
    """Outermost first; of a chain that is longer than asked for, the innermost part."""

    omitted: int
    """How many of the outermost frames are not in `frames`."""

    blame: Frame | None
    """The innermost line outside asyncio, anyio, uvloop, contextlib and this package; None where there is none."""

    target: str
    """What is awaited, in the reader's words (`asyncio.await.target`): `asyncio.sleep`, `Lock.acquire`, `Queue.get`,
    `task fetch`, `gather`, `to_thread read`, `StreamReader.read`, or the innermost named coroutine. Never a task's
    name, an id or an address."""


def walk(awaitable: Any, depth: int) -> Chain:
    """The chain of a task or of a coroutine that is suspended, with at most `depth` frames."""
    return chain_of(follow(awaitable), depth)


def follow(awaitable: Any) -> list[Any]:
    """Everything that is awaited below a task or a coroutine, outermost first.

    The last one waits for nothing further: a future, or an awaitable of a make that nobody can look into. A loop with
    a bound and a guard against cycles; not to be kept, it holds the program's own objects.
    """
    item = awaitable.get_coro() if isinstance(awaitable, TASKS) else awaitable
    links: list[Any] = []
    while item is not None and len(links) < _FARTHEST:
        links.append(item)
        usual = type(item) is CoroutineType and item.cr_code is not _SPLIT_WAIT_FOR
        item = item.cr_await if usual else _next(item)
    return links if len(links) < _DEEP else _once_round(links)


def _once_round(links: list[Any]) -> list[Any]:
    """The links up to the first that comes again."""
    seen: set[int] = set()
    for place, item in enumerate(links):
        if id(item) in seen:
            return links[:place]
        seen.add(id(item))
    return links


def chain_of(links: list[Any], depth: int) -> Chain:
    """The chain of what `follow` has found."""
    found = [(item, frame) for item in links if (frame := frame_of(item)) is not None]
    blame, below = None, []  # the line to blame, and the library's own below it
    for item, frame in reversed(found):
        if not frame.code.internal:
            blame = frame
            break
        below.append((item, frame))
    below.reverse()
    target = _called(below) or _awaited(links[-1] if links else None, found[-1][1] if found else None)
    omitted = max(len(found) - depth, 0)
    return Chain(tuple([frame for _, frame in found[omitted:]]), omitted, blame, target)


def frame_of(item: Any) -> Frame | None:
    """The code and the line at which an awaitable stands; None where it has no code, or is over."""
    kind = type(item)
    if kind is CoroutineType:
        frame, code = item.cr_frame, item.cr_code
    elif kind is GeneratorType:
        frame, code = item.gi_frame, item.gi_code
    elif kind is AsyncGeneratorType:
        frame, code = item.ag_frame, item.ag_code
    else:
        return _frame_of_cythons(item) if _is_cythons(kind) else None
    if frame is None:
        return None
    instruction = frame.f_lasti
    key = id(code), instruction
    known = _frames.get(key)
    if known is None:
        if len(_frames) >= _MOST_FRAMES:
            _frames.clear()
        info = info_of(code, frame.f_globals.get("__name__"))
        # The line of that instruction: a frame that runs in another thread may have gone on to the next line.
        known = _frames[key] = Frame(info, Site(code, instruction).line, code.co_qualname)
    return known


def _frame_of_cythons(item: Any) -> Frame | None:
    """Cython's frames have no line, and their code begins on the function's and does not know its class."""
    frame, code = getattr(item, "cr_frame", None), getattr(item, "cr_code", None)
    if frame is None or code is None:
        return None
    info = info_of(code, frame.f_globals.get("__name__"))
    return Frame(info, frame.f_lineno or code.co_firstlineno, item.__qualname__)


def _is_cythons(kind: type) -> bool:
    return kind.__module__.startswith("_cython")


def _next(item: Any) -> Any:
    kind = type(item)
    if kind is CoroutineType:
        return item.cr_await if item.cr_code is not _SPLIT_WAIT_FOR else _task_of_wait_for(item)
    if kind is GeneratorType:
        # In pure Python the end of the chain is a generator of Future.__await__, which holds the future.
        return item.gi_yieldfrom or (_held(item) if item.gi_code.co_qualname == "Future.__await__" else None)
    if kind is AsyncGeneratorType:
        return item.ag_await
    if kind.__name__ in _OPAQUE:
        return _held(item)
    if _is_cythons(kind):
        return getattr(item, "cr_await", None)
    return None


def _task_of_wait_for(item: Any) -> Any:
    """What Python 3.11's `wait_for` waits for, by a future of its own: a task, made of a coroutine perhaps.

    Of a library's coroutine (`wait_for(queue.get(), 1)`) the program does not know that it is a task.
    """
    for held in gc.get_referents(item):
        if issubclass(type(held), TASKS):  # by its type: `isinstance` asks a lazy object of the program for its class
            coro = held.get_coro()
            return coro if describe(coro)[0].internal else held
    return item.cr_await


def _held(item: Any) -> Any:
    """What an object that tells nothing of itself waits for."""
    for held in gc.get_referents(item):
        if _is_awaitable(held):
            return held
    return None


def _is_awaitable(item: Any) -> bool:
    kind = type(item)
    if kind is type:
        return False
    return (
        kind in _AWAITABLE or kind.__name__ in _OPAQUE or _is_cythons(kind) or hasattr(kind, "_asyncio_future_blocking")
    )


def _called(below: Iterable[tuple[Any, Frame]]) -> str | None:
    """What the program called into: the first function of a library below its own line, by its public name."""
    first: str | None = None
    for item, frame in below:
        qualname = frame.qualname.partition(".<locals>")[0]
        if qualname in _WAITING_TO_BEGIN:
            return qualname
        if first is None and qualname not in _PASSING_ON and frame.code.module != "contextlib":
            first = _public_name(item, frame, qualname)
    return first


def _public_name(item: Any, frame: Frame, qualname: str) -> str:
    if qualname in _READERS_WORDS:
        return _READERS_WORDS[qualname]
    package, _, _ = frame.code.module.partition(".")
    if qualname == "to_thread" and package == "asyncio":
        return f"to_thread {_function_in_thread(item)}"
    owner, dot, name = qualname.rpartition(".")
    if not dot:
        exported = hasattr(sys.modules.get(package), qualname)
        return f"{package if exported else frame.code.module}.{qualname}".lstrip(".")
    if owner == "Loop" or owner.endswith("EventLoop"):
        return f"loop.{name}"
    return owner if name in _UNNAMED else qualname


def _function_in_thread(to_thread: Any) -> str:
    """The function that `asyncio.to_thread` runs: the first argument of the `ctx.run` that it has prepared."""
    for held in gc.get_referents(to_thread):
        if type(held) is functools.partial and held.args:
            return name_of(held.args[0])
    return "function"


def name_of(function: Any) -> str:
    """The qualified name of a callable, behind `functools.partial`; that of its type where it has none."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", None)
    return name if isinstance(name, str) else type(function).__qualname__


def _awaited(end: Any, innermost: Frame | None) -> str:
    """What is awaited where no library is in between."""
    end = behind_shield(end)
    if isinstance(end, GATHERING):
        return "gather"
    if isinstance(end, TASKS):
        return f"task {describe(end.get_coro())[1]}"
    if type(end) is CoroutineType and end.cr_frame is None:  # of 3.11's wait_for, and over
        return end.__qualname__
    if innermost is None or not (end is None or _is_awaitable(end)):
        return type(end).__qualname__
    owner, _, name = innermost.qualname.rpartition(".")
    return owner if owner and name in _UNNAMED else innermost.qualname


def behind_shield(future: Any) -> Any:
    """The future that `asyncio.shield` protects, as long as it is not done."""
    callbacks: Any = future._callbacks if issubclass(type(future), _FUTURES) else None
    for callback, _ in callbacks or ():
        if getattr(callback, "__qualname__", None) == _SHIELD:
            return callback.__closure__[callback.__code__.co_freevars.index("inner")].cell_contents
    return future
