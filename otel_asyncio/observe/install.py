"""Putting the hooks where asyncio and uvloop look, and taking back what is still ours."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import weakref
from asyncio import base_events, timeouts
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe import anyio_scopes, async_timeouts
from otel_asyncio.observe.awaits import watch_groups
from otel_asyncio.observe.executors import comes_from_to_thread, handing_over, make_run_in_executor
from otel_asyncio.observe.hotpath import make_call_soon, make_call_soon_of, make_create_task, make_register
from otel_asyncio.observe.loops import implementation_of
from otel_asyncio.observe.observation import context_of
from otel_asyncio.observe.patching import replace, replace_shared, unbound, undo_all
from otel_asyncio.observe.runs import make_run_forever
from otel_asyncio.observe.scopes import make_cancel_and_wait, make_reschedule
from otel_asyncio.observe.signals import make_add_signal_handler
from otel_asyncio.observe.steps import make_call_soon_threadsafe
from otel_asyncio.observe.tasks import hide_own_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec

    from otel_asyncio.observe.loops import LoopState
    from otel_asyncio.observe.observation import Observation


def _watch_scopes(observation: Observation) -> list[Callable[[], None]]:
    """See the scopes of asyncio's that have a deadline; those of anyio and async_timeout as soon as they are there."""
    undos = _watch_library(anyio_scopes.BACKEND, "CancelScope", partial(anyio_scopes.watch, observation))
    undos += _watch_library(async_timeouts.MODULE, "Timeout", partial(async_timeouts.watch, observation))
    return [
        lambda: undo_all(undos),
        replace_shared(timeouts.Timeout, "reschedule", make_reschedule),
        replace_shared(asyncio.tasks, "_cancel_and_wait", make_cancel_and_wait),
    ]


def _watch_library(name: str, scope: str, watch: Callable[[Any], list[Callable[[], None]]]) -> list[Callable[[], None]]:
    module = sys.modules.get(name)
    if module is not None and hasattr(module, scope):
        return watch(module)
    undos: list[Callable[[], None]] = []
    undos.append(_when_imported(name, lambda module: undos.extend(watch(module))))
    return undos


def _watch_shared(observation: Observation) -> list[Callable[[], None]]:
    """What asyncio has once for the process, whatever loop runs."""
    unawaited = [] if observation.unawaited is None else [observation.unawaited.install()]
    ours = [_watch_registrations(), observation.locks.install(), watch_groups()]
    return [*unawaited, *ours, *_watch_scopes(observation)]


def install_on_classes(observation: Observation) -> Callable[[], None]:
    """Observe every loop of the process, those that exist and those to come, in every thread."""
    undos = _hook_class(observation, base_events.BaseEventLoop)
    undos += _watch_shared(observation)
    if "uvloop" in sys.modules:
        undos += _hook_uvloop(observation, sys.modules["uvloop"].Loop)
    else:
        undos.append(_when_imported("uvloop", lambda module: undos.extend(_hook_uvloop(observation, module.Loop))))
    undos.insert(0, observation.forget_loops)
    _adopt_running(observation)
    return lambda: undo_all(undos)


def _hook_class(observation: Observation, cls: Any) -> list[Callable[[], None]]:
    def call_exception_handler(self: Any, context: Any) -> None:
        observation.handler_calls.note(context)
        original_handler(self, context)

    def close(self: Any) -> None:
        original_close(self)
        observation.loop_closed(self)

    original_handler, original_close = cls.call_exception_handler, cls.close
    return [
        replace(cls, "call_soon", make_call_soon(observation, cls.call_soon)),
        replace(cls, "call_soon_threadsafe", make_call_soon_threadsafe(observation, cls.call_soon_threadsafe)),
        replace(cls, "create_task", make_create_task(observation, cls.create_task)),
        replace(cls, "run_in_executor", make_run_in_executor(observation.executors, cls.run_in_executor)),
        replace(cls, "call_exception_handler", call_exception_handler),
        replace(cls, "close", close),
        *observation.generators.install(cls),
    ]


def _hook_uvloop(observation: Observation, cls: Any) -> list[Callable[[], None]]:
    run_forever = replace(cls, "run_forever", make_run_forever(observation, cls.run_forever))
    signals = replace(cls, "add_signal_handler", make_add_signal_handler(cls.add_signal_handler))
    return [*_hook_class(observation, cls), run_forever, signals]


def _watch_registrations() -> Callable[[], None]:
    """See the eager tasks that `asyncio.Task(..., eager_start=True)` makes on 3.12 and 3.13, as aiohttp does there.

    Their first step is announced to nobody, but one that suspends is then added to `_scheduled_tasks`, a WeakSet
    written in Python. (3.14 keeps a list in C, and aiohttp uses `create_task` there.)
    """
    registry: Any = getattr(asyncio.tasks, "_scheduled_tasks", None)
    if not hasattr(registry, "_commit_removals") or sys.version_info >= (3, 14):
        return lambda: None
    return replace(registry, "add", make_register(registry))


def _adopt_running(observation: Observation) -> None:
    """Take in the tasks of the loop that runs here and now. Those of other threads follow at their next step."""
    loop = asyncio._get_running_loop()
    for task in asyncio.all_tasks(loop) if loop is not None else ():
        if not hasattr(task, "_otel_asyncio"):
            observation.adopt(loop, task, context_of(task))


def install_on_loop(observation: Observation, loop: Any) -> LoopState:
    """Observe this one loop: attributes of the instance, which hold the loop weakly, or it would not be freed."""
    state: LoopState | None = getattr(loop, "_otel_asyncio", None)
    if state is not None and (
        state.observation is observation or state.observation.process_wide or state.expected is not None
    ):
        return state
    ref = weakref.ref(loop)
    announce_threadsafe = make_call_soon_threadsafe(observation, unbound(loop, "call_soon_threadsafe"))
    hand_over = handing_over(observation.executors, unbound(loop, "run_in_executor"))
    plain_handler, plain_close = unbound(loop, "call_exception_handler"), unbound(loop, "close")

    def call_soon_threadsafe(callback: Any, *args: Any, context: Any = None) -> Any:
        return announce_threadsafe(ref(), callback, *args, context=context)

    def run_in_executor(executor: Any, func: Any, *args: Any) -> Any:
        try:
            return hand_over(ref(), executor, func, args, comes_from_to_thread())
        except BaseException as error:
            hide_own_frames(error, keep=0)
            raise

    def call_exception_handler(context: Any) -> None:
        observation.handler_calls.note(context)
        plain_handler(ref(), context)

    def close() -> None:
        # Weak references to what the collector has found are dead before `__del__` runs, which closes a loop.
        alive = ref() or sys._getframe(1).f_locals["self"]
        plain_close(alive)
        observation.loop_closed(alive)
        undo_all(undos)

    # What is shared with other loops goes when this one is closed, or gone without that.
    shared = _watch_shared(observation)
    unshare = weakref.finalize(loop, undo_all, shared)
    unshare.atexit = False
    undos: list[Callable[[], Any]] = [
        unshare,
        replace(loop, "call_soon", make_call_soon_of(observation, unbound(loop, "call_soon"), loop)),
        replace(loop, "call_soon_threadsafe", call_soon_threadsafe),
        replace(loop, "run_in_executor", run_in_executor),
        replace(loop, "call_exception_handler", call_exception_handler),
        replace(loop, "close", close),
        *observation.generators.install_on(loop),
    ]
    if implementation_of(loop) == "uvloop":
        run_forever = make_run_forever(observation, unbound(loop, "run_forever"))
        add_signal_handler = make_add_signal_handler(unbound(loop, "add_signal_handler"))
        undos.append(replace(loop, "run_forever", partial(run_forever, ref)))
        undos.append(replace(loop, "add_signal_handler", partial(add_signal_handler, ref)))
    return observation.enrol(loop)


class _ImportHook:
    """A finder that looks for one module once, and lets something happen after it has been executed."""

    def __init__(self, name: str, then: Callable[[Any], None]) -> None:
        self.name = name
        self.then = then

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        """Find the module as the others would, and wrap its execution."""
        if name != self.name:
            return None
        self.remove()
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute, loader = spec.loader.exec_module, spec.loader

            def exec_module(module: Any) -> None:
                execute(module)
                self.then(module)

            loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    def remove(self) -> None:
        """Stop looking."""
        with suppress(ValueError):
            sys.meta_path.remove(self)


def _when_imported(name: str, then: Callable[[Any], None]) -> Callable[[], None]:
    hook = _ImportHook(name, then)
    sys.meta_path.insert(0, hook)
    return hook.remove
