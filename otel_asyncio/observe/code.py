"""Which code runs in a task and which line made it: looked up once for each code object."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_asyncio.observe.sites import Site

if TYPE_CHECKING:
    from types import CodeType, FrameType

PACKAGE = str(Path(__file__).parent.parent) + os.sep
_ASYNCIO = str(Path(asyncio.__file__).parent) + os.sep
# contextlib, because nobody means the inside of an AsyncExitStack or of an `@asynccontextmanager`.
_LIBRARIES = {"anyio", "async_timeout", "uvloop", "contextlib"}

# Coroutines that other tools put around the user's: where the user's own is found in their frame.
_WRAPPERS = {
    "TaskHandle._run_coro": "self._coro",  # anyio
    "AsyncioInstrumentor.trace_coroutine": "coro",  # opentelemetry-instrumentation-asyncio
    "_task_with_sentry_span_creation": "coro",  # sentry-sdk
    "traced_coro": "coro",  # ddtrace
    "Monitor._coro_wrapper": "coro",  # aiomonitor
}
_UVLOOP_MAIN = "run.<locals>.wrapper"
_WRAPPER_DEPTH = 8

# What a loop runs for itself, through create_task like anybody's coroutine: its end, and each accepted connection.
_HOUSEKEEPING = {"shutdown_asyncgens", "shutdown_default_executor", "_accept_connection2"}

# The last frames of asyncio below which lies not the maker of a task but whoever runs the loop.
_ENTRY_POINTS = {
    "Handle._run",
    "run_coroutine_threadsafe.<locals>.callback",
    "StreamReaderProtocol.connection_made",
    "BaseEventLoop._asyncgen_finalizer_hook",
    "BaseEventLoop.run_forever",
    "BaseEventLoop.run_until_complete",
    "Runner.run",
}

LOOPS_TURN = "_run_once"
"""Of BaseEventLoop, what overrides it, and what nest_asyncio puts in its place. Compiled steps run right above it."""

# And ours below which lies whoever runs a uvloop (`runs.py`).
_OWN_ENTRY_POINTS = {"make_run_forever.<locals>.run_forever"}

_CACHE_SIZE = 10_000


class CodeInfo(NamedTuple):
    """What is known of a code object. `code` keeps it alive, so that its id stays its own."""

    code: CodeType | None
    module: str
    file: str | None
    line: int | None
    internal: bool
    wrapped: str | None
    housekeeping: bool
    entry_point: bool


# The ids of code that a search for the maker of a task passes over, and of that which it looks for, so that the search
# is one or two look-ups a frame.
passed: set[int] = set()
_looked_for: set[int] = set()

_UNKNOWN = CodeInfo(None, "", None, None, False, None, False, False)
infos: dict[int, CodeInfo] = {}
usual: dict[int, CodeInfo] = {}
"""Of those, whatever wraps nothing and is no housekeeping: to ask for that each time takes longer than to find it."""


def info_of(code: CodeType, module: str | None = None) -> CodeInfo:
    """The facts of a code object; cached by identity, because the hash of a code object reads all of it."""
    info = infos.get(id(code))
    if info is None:
        if len(infos) >= _CACHE_SIZE:
            for known in (usual, passed, _looked_for, infos):  # the last one keeps their ids from being used again
                known.clear()
        info = infos[id(code)] = _inspect(code, module)
        if info.internal and not info.entry_point:
            passed.add(id(code))
        if not info.internal:
            _looked_for.add(id(code))
        if info.wrapped is None and not info.housekeeping:
            usual[id(code)] = info
    return info


def of_file(file: str) -> CodeInfo:
    """Code of which no more is known than its file."""
    return _UNKNOWN._replace(file=file)


def _inspect(code: CodeType, module: str | None) -> CodeInfo:
    file, qualname = code.co_filename, code.co_qualname
    in_asyncio = file.startswith(_ASYNCIO)
    # uvloop's own coroutines are compiled: no module to be read off a frame, and `uvloop/loop.pyx` for a file.
    library = (module or file.replace(os.sep, ".")).partition(".")[0]
    turn = code.co_name == LOOPS_TURN
    internal = in_asyncio or library in _LIBRARIES or file.startswith(PACKAGE) or turn
    entry_points = _ENTRY_POINTS if in_asyncio else _OWN_ENTRY_POINTS
    return CodeInfo(
        code=code,
        module=module or "",
        file=file,
        line=code.co_firstlineno,
        internal=internal,
        wrapped=_wrapped_name(code, library),
        housekeeping=code.co_name in _HOUSEKEEPING and (in_asyncio or library in _LIBRARIES),
        entry_point=internal and (turn or qualname in entry_points),
    )


def _wrapped_name(code: CodeType, library: str) -> str | None:
    if code.co_qualname == _UVLOOP_MAIN and library == "uvloop":
        return "main"
    return _WRAPPERS.get(code.co_qualname) or _WRAPPERS.get(code.co_name)


def describe(coro: Any) -> tuple[CodeInfo, str]:
    """The code and the qualified name of the user's coroutine, behind known wrappers.

    Any awaitable that a task accepts will do: what has no code or no name is described by its type.
    """
    try:
        info = infos[id(coro.cr_code)]
    except (AttributeError, KeyError):
        return _describe_new(coro)
    return (info, coro.__qualname__) if info.wrapped is None else _describe_new(coro)


def _describe_new(coro: Any) -> tuple[CodeInfo, str]:
    info = _UNKNOWN
    for _ in range(_WRAPPER_DEPTH):
        code = getattr(coro, "cr_code", None)
        if code is None:
            return _describe_other(coro)
        frame = coro.cr_frame
        info = info_of(code, frame.f_globals.get("__name__") if frame is not None else None)
        if info.wrapped is None or (inner := _unwrap(coro, info.wrapped)) is None:
            break
        coro = inner
    return info, coro.__qualname__


def _unwrap(coro: Any, path: str) -> Any:
    if coro.cr_frame is None:
        return None
    name, _, attribute = path.partition(".")
    inner = coro.cr_frame.f_locals.get(name)
    return getattr(inner, attribute, None) if attribute else inner


def _describe_other(coro: Any) -> tuple[CodeInfo, str]:
    """Generator-based coroutines, `asend()` and `athrow()` of an async generator, Cython's, user-made ones."""
    if not hasattr(coro, "gi_code") and type(coro).__module__ == "builtins":
        coro = next((item for item in gc.get_referents(coro) if hasattr(item, "ag_code")), coro)
    code = getattr(coro, "gi_code", None) or getattr(coro, "ag_code", None)
    frame = getattr(coro, "gi_frame", None) or getattr(coro, "ag_frame", None)
    module = frame.f_globals.get("__name__") if frame is not None else type(coro).__module__
    qualname = getattr(coro, "__qualname__", None) or getattr(coro, "__name__", None)
    info = info_of(code, module) if code is not None else _UNKNOWN._replace(module=module)
    return info, qualname if isinstance(qualname, str) else type(coro).__qualname__


def creation_site(depth: int) -> Site | None:
    """The line that makes a task: `creation_point` as something to read."""
    point = creation_point(depth + 1)
    return None if point is None else Site(*point)


def creation_point(depth: int, frame: FrameType | None = None) -> tuple[CodeType, int] | None:
    """The first frame outside asyncio, anyio, uvloop and this package: its code and instruction.

    From `frame` outwards; where none is given, from `depth` callers up.

    None where a task was made by the loop itself: below a callback's frames lies whoever runs the loop, and that is
    not the line to blame. Nested in a running loop only; the task of `asyncio.run` is made by the line that calls it.
    """
    frame = frame or sys._getframe(depth)
    while frame is not None:
        code = frame.f_code
        key = id(code)
        if key in _looked_for:
            return code, frame.f_lasti
        if key not in passed:
            info = infos.get(key) or info_of(code, frame.f_globals.get("__name__"))
            if not info.internal:
                return code, frame.f_lasti
            if info.entry_point and asyncio._get_running_loop() is not None:
                return None
        frame = frame.f_back
    return None


def is_program(code: CodeType) -> bool:
    """Whether this is known to be code of the program; not of one that has not been looked at yet."""
    info = infos.get(id(code))
    return info is not None and not info.internal


def called_from(depth: int, names: frozenset[str]) -> str | None:
    """The first of the internal callers, `depth` frames up, whose qualified name is in `names`."""
    frame: FrameType | None = sys._getframe(depth)
    while frame is not None:
        info = info_of(frame.f_code, frame.f_globals.get("__name__"))
        if frame.f_code.co_qualname in names and info.internal:
            return frame.f_code.co_qualname
        if not info.internal or info.entry_point:
            return None
        frame = frame.f_back
    return None
