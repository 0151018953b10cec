"""T13: other people's task factories, before ours and after it: one span per task, and nobody is broken."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import pytest
from harness import NewLoop, Spans, TracedRun, asyncio_only, both_ways, instrumented, links, run_on

import otel_asyncio

Factory = Callable[..., Any]


def wrapping_factory(previous: Factory | None, seen: list[str]) -> Factory:
    """Like Sentry's: wraps every coroutine in one of its own and hands it to the factory that was there."""

    def factory(loop: Any, coro: Any, **kwargs: Any) -> Any:
        async def _task_with_sentry_span_creation() -> Any:
            seen.append(coro.__qualname__)
            return await coro

        wrapped = _task_with_sentry_span_creation()
        if previous is not None:
            return previous(loop, wrapped, **kwargs)
        kwargs.pop("eager_start", None)
        return asyncio.Task(wrapped, loop=loop, **kwargs)

    return factory


class Promise(asyncio.Future[str]):
    """What some factories make: no task, but with what `create_task` asks for before 3.13.3."""

    def set_name(self, name: object) -> None:
        """Has none."""


async def child() -> str:
    await asyncio.sleep(0)
    return "done"


async def main() -> str:
    return await asyncio.create_task(child())


def qualnames(seen: list[str]) -> list[str]:
    return [name for name in seen if name in ("main", "child")]


@both_ways
def test_a_wrapping_factory_beneath_ours(traced_run: TracedRun, spans: Spans) -> None:
    """T13: it goes on wrapping, and the task is recorded once, under the user's name."""
    seen: list[str] = []
    assert traced_run(main(), inner=wrapping_factory(None, seen)) == "done"
    assert (len(spans.of("child")), qualnames(seen)) == (1, ["main", "child"])


def test_a_wrapping_factory_above_ours(new_loop: NewLoop, spans: Spans) -> None:
    """T13: ours gets the wrapped coroutine and looks behind it."""
    seen: list[str] = []

    def make() -> asyncio.AbstractEventLoop:
        loop = new_loop()
        loop.set_task_factory(otel_asyncio.task_factory(tracer_provider=spans.provider))
        loop.set_task_factory(wrapping_factory(loop.get_task_factory(), seen))
        return loop

    assert run_on(make, main()) == "done"
    assert (len(spans.of("child")), qualnames(seen)) == (1, ["main", "child"])


def test_ours_twice_records_once(new_loop: NewLoop, spans: Spans) -> None:
    """T13: as a library and a program may both set it."""
    inner = otel_asyncio.task_factory(tracer_provider=spans.provider)
    outer = otel_asyncio.task_factory(inner, tracer_provider=spans.provider)

    def make() -> asyncio.AbstractEventLoop:
        loop = new_loop()
        loop.set_task_factory(outer)
        return loop

    assert run_on(make, main()) == "done"
    assert len(spans.of("child")) == 1


def test_our_factory_in_a_traced_process_records_once(
    new_loop: NewLoop, instrumented_process: object, spans: Spans
) -> None:
    """T13: both ways in at the same time."""

    def make() -> asyncio.AbstractEventLoop:
        loop = new_loop()
        loop.set_task_factory(otel_asyncio.task_factory(tracer_provider=spans.provider))
        return loop

    assert run_on(make, main()) == "done"
    assert len(spans.of("child")) == 1


def test_a_factory_set_while_tasks_run_records_from_then_on(run: Callable[..., Any], spans: Spans) -> None:
    """T13: `set_task_factory` is the first line of a program's main, as a rule."""

    async def late() -> str:
        loop = asyncio.get_running_loop()
        before = asyncio.create_task(child())
        loop.set_task_factory(otel_asyncio.task_factory(tracer_provider=spans.provider))
        return await before + await asyncio.create_task(child())

    assert run(late()) == "donedone"
    assert len(spans.of("child")) in (1, 2), "the second for certain; the first once it announces a step"


@both_ways
def test_another_factory_set_after_ours_wins(traced_run: TracedRun, run: Callable[..., Any]) -> None:
    """T13: the program goes on with what it set."""
    made: list[Any] = []

    def theirs(loop: Any, coro: Any, **kwargs: Any) -> Any:
        kwargs.pop("eager_start", None)
        made.append(asyncio.Task(coro, loop=loop, **kwargs))
        return made[-1]

    async def replaces() -> bool:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(theirs)
        task = asyncio.create_task(child())
        await task
        return loop.get_task_factory() is theirs and task is made[-1]

    assert traced_run(replaces())


def test_get_task_factory_says_what_the_program_set(run: Callable[..., Any], instrumented_process: object) -> None:
    """T13: nothing by default, and what was set is what is there."""

    async def asks() -> list[bool]:
        loop = asyncio.get_running_loop()
        factory = wrapping_factory(None, [])
        seen = [loop.get_task_factory() is None]
        loop.set_task_factory(factory)
        seen.append(loop.get_task_factory() is factory)
        loop.set_task_factory(None)
        return [*seen, loop.get_task_factory() is None]

    assert run(asks()) == [True, True, True]


@both_ways
def test_a_factory_that_makes_no_task_is_let_be(same_as_bare: Callable[..., Any], traced_run: TracedRun) -> None:
    """T13: some return a future, or a proxy, of their own."""

    def future_factory(loop: Any, coro: Any, **_: Any) -> Any:
        coro.close()
        future = Promise(loop=loop)
        future.set_result("a future")
        return future

    async def asks() -> str:
        loop = asyncio.get_running_loop()
        before = loop.get_task_factory()
        loop.set_task_factory(traced_run.factory(future_factory))
        result = await loop.create_task(child())
        loop.set_task_factory(before)
        return result

    assert same_as_bare(asks) == "a future"


@both_ways
def test_a_factory_that_raises_is_heard(traced_run: TracedRun, spans: Spans) -> None:
    """T13: and leaves no span, no task and no count behind."""

    def raising(loop: Any, coro: Any, **_: Any) -> Any:
        coro.close()
        raise LookupError("theirs")

    async def asks() -> str:
        loop = asyncio.get_running_loop()
        before = loop.get_task_factory()
        loop.set_task_factory(traced_run.factory(raising))
        with pytest.raises(LookupError, match="theirs"):
            loop.create_task(child())
        loop.set_task_factory(before)
        return await loop.create_task(child())

    assert traced_run(asks()) == "done"
    assert len(spans.of("child")) <= 1


@both_ways
def test_a_partial_for_a_factory_is_a_factory(traced_run: TracedRun, spans: Spans) -> None:
    """T13: it has no code, no name and no closure to look at."""

    def prefixed(prefix: str, loop: Any, coro: Any, **kwargs: Any) -> Any:
        kwargs = {"context": kwargs.get("context"), "name": prefix}
        return asyncio.Task(coro, loop=loop, **kwargs)

    assert traced_run(main(), inner=functools.partial(prefixed, "mine")) == "done"
    assert len(spans.of("child")) == 1


@both_ways
def test_a_foreign_task_has_its_place_in_the_trace(traced_run: TracedRun, spans: Spans) -> None:
    """T13, T15: a factory of the program's does not cut the trace."""

    def theirs(loop: Any, coro: Any, **kwargs: Any) -> Any:
        kwargs.pop("eager_start", None)
        return asyncio.Task(coro, loop=loop, **kwargs)

    async def request() -> None:
        with spans.tracer.start_as_current_span("request"):
            await asyncio.create_task(works())

    async def works() -> None:
        with spans.tracer.start_as_current_span("query"):
            await asyncio.sleep(0)

    traced_run(request(), inner=theirs)
    query, works_span, request_span = spans.named("query"), spans.task("works"), spans.named("request")
    assert query.parent is not None and query.parent.span_id == works_span.get_span_context().span_id
    assert works_span.parent is not None
    assert works_span.parent.span_id == request_span.get_span_context().span_id
    assert links(works_span) == {}


def test_instrumenting_a_loop_with_a_factory_records_once(run: Callable[..., Any], spans: Spans) -> None:
    """T13: the process is traced after the program has set its factory."""

    async def late() -> str:
        asyncio.get_running_loop().set_task_factory(wrapping_factory(None, []))
        with instrumented(spans):
            return await main()

    assert run(late()) == "done"
    assert len(spans.of("child")) == 1


def test_what_was_put_on_a_loop_before_goes_on_being_called(new_loop: NewLoop, spans: Spans) -> None:
    """T13: sentry-sdk flushes in a `close` of its own; others listen in `call_soon`."""
    loop: Any = new_loop()
    called: list[str] = []

    def listening(name: str) -> Callable[..., Any]:
        plain = getattr(loop, name)

        def listen(*args: Any, **kwargs: Any) -> Any:
            called.append(name)
            return plain(*args, **kwargs)

        return listen

    for name in ("call_soon", "close"):
        setattr(loop, name, listening(name))
    theirs = loop.close
    loop.set_task_factory(otel_asyncio.task_factory(tracer_provider=spans.provider))
    assert loop.run_until_complete(main()) == "done"
    loop.close()
    assert (len(spans.of("child")), "call_soon" in called, called.count("close"), loop.close is theirs) == (
        1,
        True,
        1,
        True,
    )


@asyncio_only
def test_a_create_task_that_somebody_wraps_goes_on_being_called(
    run: Callable[..., Any], spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T13: as some tools do on the class, before us; their wrapper sees every task, and each has one span."""
    plain, seen = asyncio.BaseEventLoop.create_task, []

    def create_task(self: Any, coro: Any, **kwargs: Any) -> Any:
        seen.append(coro.__qualname__)
        return plain(self, coro, **kwargs)

    monkeypatch.setattr(asyncio.BaseEventLoop, "create_task", create_task)
    with instrumented(spans):
        assert run(main()) == "done"
    assert (qualnames(seen), len(spans.of("child")), len(spans.of("main"))) == (["main", "child"], 1, 1)
