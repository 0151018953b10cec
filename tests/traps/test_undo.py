"""T13: uninstrument puts back exactly what it found, and only what is still ours, also while tasks run."""

from __future__ import annotations

import asyncio
import sys
from asyncio import base_events
from collections.abc import Callable
from typing import Any

import pytest
from harness import Spans, attributes, instrumented, needs_python
from opentelemetry.sdk.trace import sampling

from otel_asyncio import AsyncioInstrumentor, Settings

# What asyncio itself sets while it runs.
RUNTIME = {"__annotations__", "__abstractmethods__", "_abc_impl", "_event_loop_policy", "_current_tasks"}


def snapshot() -> dict[str, Any]:
    """Everything that installing may touch, by identity."""
    seen: dict[str, Any] = {"meta_path": tuple(map(id, sys.meta_path))}
    owners: list[Any] = [
        base_events.BaseEventLoop,
        asyncio,
        asyncio.tasks,
        asyncio.events,
        asyncio.Lock,
        asyncio.TaskGroup,
    ]
    owners += [sys.modules["uvloop"].Loop] if "uvloop" in sys.modules else []
    for owner in owners:
        for name, value in vars(owner).items():
            if name not in RUNTIME:
                seen[f"{owner.__name__}.{name}"] = id(value)
    registry = getattr(asyncio.tasks, "_scheduled_tasks", None)
    return seen | {f"registry.{name}": id(value) for name, value in getattr(registry, "__dict__", {}).items()}


async def child(event: asyncio.Event) -> str:
    await event.wait()
    await asyncio.sleep(0)
    return "done"


def test_everything_is_put_back(run: Callable[..., Any], spans: Spans) -> None:
    """T13: class attributes, names, the import hook, and the attributes of asyncio's registry."""
    before = snapshot()
    with instrumented(spans):
        run(asyncio.sleep(0))
    assert snapshot() == before


def test_the_factory_of_a_loop_is_never_touched(run: Callable[..., Any], spans: Spans) -> None:
    """T13."""

    async def main() -> bool:
        def theirs(loop: Any, coro: Any, **kwargs: Any) -> Any:
            kwargs.pop("eager_start", None)
            return asyncio.Task(coro, loop=loop, **kwargs)

        loop = asyncio.get_running_loop()
        loop.set_task_factory(theirs)
        with instrumented(spans):
            during = loop.get_task_factory()
        return during is theirs and loop.get_task_factory() is theirs

    assert run(main())


def test_what_somebody_else_put_there_since_stays(
    run: Callable[..., Any], spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T13: undone by identity."""
    calls: list[str] = []
    cls: Any = base_events.BaseEventLoop
    monkeypatch.setattr(cls, "create_task", cls.create_task)
    with instrumented(spans):
        ours = cls.create_task

        def theirs(self: Any, coro: Any, **kwargs: Any) -> Any:
            calls.append("theirs")
            return ours(self, coro, **kwargs)

        cls.create_task = theirs
    assert cls.create_task is theirs
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        assert runner.run(asyncio.sleep(0, "done")) == "done"
    assert calls and spans.all() == []


def test_tasks_that_run_go_on_when_tracing_stops(
    run: Callable[..., Any], spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    """T13: with the same results and not a word in the log."""

    async def main() -> list[str]:
        event = asyncio.Event()
        with instrumented(spans):
            tasks = [asyncio.create_task(child(event)) for _ in range(50)]
            await asyncio.sleep(0)
        tasks += [asyncio.create_task(child(event)) for _ in range(50)]
        await asyncio.sleep(0)
        event.set()
        return await asyncio.gather(*tasks)

    assert run(main()) == ["done"] * 100
    assert caplog.records == []


def test_tasks_that_run_can_be_cancelled_and_fail_when_tracing_stopped(run: Callable[..., Any], spans: Spans) -> None:
    """T13."""

    async def fail(event: asyncio.Event) -> None:
        await event.wait()
        raise LookupError("theirs")

    async def main() -> list[Any]:
        event = asyncio.Event()
        with instrumented(spans), spans.tracer.start_as_current_span("request"):
            tasks = [asyncio.create_task(fail(event)), asyncio.create_task(child(event))]
            await asyncio.sleep(0)
        event.set()
        tasks[1].cancel()
        return [type(result) for result in await asyncio.gather(*tasks, return_exceptions=True)]

    assert run(main()) == [LookupError, asyncio.CancelledError]


def test_nothing_is_recorded_after_tracing_has_stopped(run: Callable[..., Any], spans: Spans) -> None:
    """T13: on a loop that was traced."""

    async def main() -> int:
        with instrumented(spans):
            await asyncio.create_task(asyncio.sleep(0))
        count = len(spans.all())
        await asyncio.create_task(asyncio.sleep(0))
        return len(spans.all()) - count

    assert run(main()) == 0


def test_tracing_can_be_started_again_on_a_loop_that_runs(run: Callable[..., Any]) -> None:
    """T13: into another provider, which gets what comes from then on."""
    first, second = Spans(), Spans()

    async def named_child() -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        for spans in (first, second):
            with instrumented(spans):
                await asyncio.create_task(named_child())

    run(main())
    assert (len(first.of("named_child")), len(second.of("named_child"))) == (1, 1)


def test_stopping_under_load_loses_no_step(run: Callable[..., Any]) -> None:
    """T13: tracing comes and goes while hundreds of tasks step."""

    async def counts() -> int:
        steps = 0
        for _ in range(20):
            await asyncio.sleep(0)
            steps += 1
        return steps

    async def main() -> int:
        tasks = [asyncio.create_task(counts()) for _ in range(100)]
        for _ in range(10):
            with instrumented(Spans()):
                tasks += [asyncio.create_task(counts()) for _ in range(10)]
                await asyncio.sleep(0)
            await asyncio.sleep(0)
        return sum(await asyncio.gather(*tasks))

    assert run(main()) == 200 * 20


def test_an_unsampled_task_whose_last_step_is_queued_ends_quietly_when_tracing_stops(run: Callable[..., Any]) -> None:
    """T13: its end was looked up on a loop that was let go already, and asyncio wrote the error to the log."""
    complaints: list[Any] = []

    async def main() -> list[str]:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        spans, event = Spans(sampler=sampling.ALWAYS_OFF), asyncio.Event()
        with instrumented(spans), spans.tracer.start_as_current_span("request"):
            tasks = [asyncio.create_task(child(event)) for _ in range(3)]
            await asyncio.sleep(0)
            event.set()
            await asyncio.sleep(0)  # each has one step to go, which is queued
        return [await task for task in tasks]

    assert run(main()) == ["done"] * 3
    assert complaints == []


def test_running_tasks_are_adopted(run: Callable[..., Any], spans: Spans) -> None:
    """T13: those of the loop that runs, with what can be known of them."""

    async def main() -> None:
        event = asyncio.Event()
        task = asyncio.create_task(child(event))
        await asyncio.sleep(0)
        with instrumented(spans):
            event.set()
            await task

    run(main())
    seen = attributes(spans.task("child"))
    assert (seen["asyncio.task.kind"], seen["asyncio.task.outcome"]) == ("adopted", "success")
    assert not [key for key in seen if key.startswith("asyncio.task.created.")]


def test_a_task_adopted_once_is_recorded_once(run: Callable[..., Any], spans: Spans) -> None:
    """T13."""

    async def main() -> None:
        event = asyncio.Event()
        task = asyncio.create_task(child(event))
        await asyncio.sleep(0)
        with instrumented(Spans()):
            await asyncio.sleep(0)
        with instrumented(spans):
            event.set()
            await task

    run(main())
    assert len(spans.of("child")) <= 1


def test_instrumenting_twice_records_once(
    run: Callable[..., Any], spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    """T27: the second call is refused with a warning, as in every instrumentor."""
    with instrumented(spans):
        AsyncioInstrumentor().instrument(tracer_provider=spans.provider, settings=Settings())
        run(once())
    assert len(spans.of("once")) == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def once() -> None:
    await asyncio.sleep(0)


def test_uninstrumenting_twice_is_harmless(run: Callable[..., Any], spans: Spans) -> None:
    """T27: the second call is refused with a warning."""
    before = snapshot()
    with instrumented(spans):
        pass
    AsyncioInstrumentor().uninstrument()
    run(once())
    assert (snapshot(), spans.all()) == (before, [])


@needs_python(3, 12)
def test_an_eager_task_in_flight_survives_the_end_of_tracing(run: Callable[..., Any], spans: Spans) -> None:
    """T13: tracing stops inside the eager first step itself."""

    async def stops() -> str:
        AsyncioInstrumentor().uninstrument()
        await asyncio.sleep(0)
        return "done"

    async def main() -> str:
        loop: Any = asyncio.get_running_loop()
        AsyncioInstrumentor().instrument(tracer_provider=spans.provider)
        return await asyncio.Task(stops(), loop=loop, eager_start=True)

    assert run(main()) == "done"
