"""The `create_task` of an observed loop: makes the tasks itself, or lets the program's own factory make them."""

from __future__ import annotations

import asyncio
import inspect
import sys
import weakref
from asyncio import base_events
from functools import wraps
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.patching import is_stock
from otel_asyncio.observe.tasks import drop_own_frames, hide_own_frames, make_foreign, make_recorded, make_task

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_asyncio.observe.loops import LoopState
    from otel_asyncio.observe.observation import Observation

_EAGER_FACTORY: Any = getattr(getattr(asyncio, "eager_task_factory", None), "__code__", None)
_STOCK = base_events.BaseEventLoop.create_task
NOT_GIVEN: Any = object()  # a factory gets the keywords that the program gave, and no others


def make_create_task(  # noqa: C901 - written out, it runs for every task
    observation: Observation, original: Callable[..., Any]
) -> Callable[..., Any]:
    """The `create_task` that makes observed tasks, for a class whose own is `original`.

    A factory that the program has set wins and is composed with; `get_task_factory()` goes on telling the truth. The
    usual case is written out: a coroutine, no factory, no keyword but name and context; of these, the tasks under an
    unsampled span are told by one look at their surroundings.
    """
    enrol, plain_classes = observation.enrol, observation.plain_classes
    stock, wrapped = has_known_loops(original), is_wrapped(original)
    elaborate = _make_elaborate(observation, original, wrapped=wrapped)
    tasks, not_given = asyncio.tasks, NOT_GIVEN
    usual = None if wrapped else CoroutineType
    sink, surroundings = observation.sink, observation.sink.surroundings
    Task, Plain = tasks.Task, plain_classes[tasks.Task]  # noqa: N806 - as they are now; both may be exchanged

    @wraps(original, updated=())
    def create_task(  # noqa: C901
        self: Any, coro: Any, *, name: Any = NOT_GIVEN, context: Any = NOT_GIVEN, **extra: Any
    ) -> Any:
        factory = self._task_factory if stock else self.get_task_factory()
        if factory is not None or type(coro) is not usual or (self._closed if stock else self.is_closed()) or extra:
            try:
                return elaborate(self, coro, name, context, extra)
            except BaseException as error:
                if factory is None:
                    hide_own_frames(error, keep=1)  # as many frames as the loop's own
                raise
        if name is not_given:
            name = None
        if context is not_given:
            context = None
        try:
            state = self._otel_asyncio
        except AttributeError:
            state = enrol(self)
        shard = state.shard
        place = None
        try:
            if context is not None or surroundings() is not sink.unwanted():
                place = observation.place(context, state.running)
        except Exception as error:  # noqa: BLE001 - the border of the package
            observation.switch_off_creation(error)
        if place is not None or shard.started >= shard.glimpse_at:
            return make_recorded(state, place, self, coro, name, context)
        cls: Any = Plain if tasks.Task is Task else plain_classes[tasks.Task]
        if context is not None:
            task = cls(coro, loop=self, name=name, context=context)
        else:  # each keyword costs what a line does
            task = cls(coro, loop=self) if name is None else cls(coro, loop=self, name=name)
        shard.started += 1
        if self._debug if stock else task._source_traceback:
            drop_own_frames(task)
        return task

    return create_task


def make_factory(_: Observation, construct: Callable[..., Any]) -> Callable[..., Any]:
    """A task factory that makes tasks as `construct` does."""

    def factory(loop: Any, coro: Any, **kwargs: Any) -> Any:
        return construct(coro, loop=loop, **kwargs)

    return factory


def has_known_loops(original: Any) -> bool:
    """Whether this is asyncio's own, for loops whose attributes are known; others are asked."""
    return original is _STOCK and is_stock(_STOCK, "_check_closed")


def is_wrapped(original: Any) -> bool:
    """Whether somebody has put a function of theirs around the loop's own, which they want to be called."""
    return not has_known_loops(original) and (inspect.isfunction(original) or hasattr(original, "__wrapped__"))


def _make_elaborate(observation: Observation, original: Callable[..., Any], *, wrapped: bool) -> Callable[..., Any]:
    accepts = _keywords_of(original)
    # uvloop gives every factory eager_start=None from 3.13 on, which makes the eager one start its tasks lazily.
    calls_eagerly = original is _STOCK or sys.version_info < (3, 13)

    def elaborate(loop: Any, coro: Any, name: Any, context: Any, given: dict[str, Any]) -> Any:
        if name is not NOT_GIVEN:
            given["name"] = name
        if context is not NOT_GIVEN:
            given["context"] = context
        if not asyncio.iscoroutine(coro) or loop.is_closed() or not accepts.issuperset(given):
            return original(loop, coro, **given)  # what asyncio refuses, asyncio refuses in its own words
        factory = loop.get_task_factory()
        state = observation.state_of(loop)
        if factory is None and not wrapped:
            return make_task(state, loop, coro, **given)
        if calls_eagerly and not wrapped and _makes_stock_tasks_eagerly(factory):
            try:
                return make_task(state, loop, coro, **{"eager_start": True} | given)
            except BaseException as error:
                hide_own_frames(error, keep=1)  # this one stands for the factory's
                raise
        return make_foreign(state, original, coro, given.get("context"), loop, coro, **given)

    return elaborate


def make_register(registry: Any) -> Callable[[Any], None]:
    """The `add` of asyncio's weak set of tasks, which tells of those that we do not know yet.

    Done as WeakSet does it on 3.12 and 3.13: every task comes by here, and a call costs as much as it does.
    """
    members, removals, remove, ref = registry.data, registry._pending_removals, registry._remove, weakref.ref

    def add(task: Any) -> None:
        if removals:
            registry._commit_removals()
        members.add(ref(task, remove))
        try:
            record = task._otel_asyncio
            if not record.timed or not record.step_started:
                return  # made by us, and its first step is still to come: the usual case
        except AttributeError:
            pass
        if isinstance(task, asyncio.Task):
            state: LoopState | None = getattr(task.get_loop(), "_otel_asyncio", None)
            if state is not None:
                state.observation.registered(task, state)

    return add


def _keywords_of(original: Callable[..., Any]) -> set[str]:
    """Which keywords the loop's own `create_task` takes: `eager_start` since it takes any (3.13.3, 3.14)."""
    if inspect.isfunction(original):
        takes_any = bool(original.__code__.co_flags & inspect.CO_VARKEYWORDS)
    else:
        takes_any = sys.version_info >= (3, 13)  # uvloop's, which is compiled
    return {"name", "context"} | ({"eager_start"} if takes_any else set())


def _makes_stock_tasks_eagerly(factory: Any) -> bool:
    """Whether this is `asyncio.eager_task_factory`, which may then be done with our class.

    By its code, as anyio knows it: every product of `create_eager_task_factory` has the same.
    """
    code = getattr(factory, "__code__", None)
    if code is None or code is not _EAGER_FACTORY:
        return False
    cell = factory.__closure__[code.co_freevars.index("custom_task_constructor")]
    return cell.cell_contents is asyncio.tasks.Task
