"""Locks and their like: what is waited for, and who holds a lock, since when, taken on which line."""

from __future__ import annotations

import asyncio
import gc
import inspect
import traceback
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from harness import Spans, TracedRun, attributes, both_providers, both_ways, instrumented, links, span_id

from otel_asyncio import Settings, task_factory
from otel_asyncio.observe.chain import follow
from otel_asyncio.observe.resources import Hold, Locks, waited_for
from otel_asyncio.testing import AutojumpLoop, Recorder, record

SHORT = {"await_threshold": 0.01}


def here() -> int:
    """The line that calls this."""
    frame = inspect.currentframe()
    assert frame is not None and frame.f_back is not None
    return frame.f_back.f_lineno


def recorded(main: Any, **settings: Any) -> Recorder:
    """What is recorded of `main(tracer)` on the virtual clock."""
    loop = AutojumpLoop()
    with record(settings=Settings(**settings), clock=loop.clock) as recorder:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(main(recorder.tracer_provider.get_tracer("test")))
    return recorder


def waits(recorder: Recorder, name: str = "await Lock.acquire") -> list[dict[str, Any]]:
    found = sorted((span for span in recorder.spans if span.name == name), key=lambda span: span.end_time or 0)
    return [attributes(span) for span in found]


async def lock() -> None:
    lock = asyncio.Lock()
    await lock.acquire()
    asyncio.get_running_loop().call_later(0.02, lock.release)
    async with lock:
        pass


async def semaphore() -> None:
    semaphore = asyncio.Semaphore(0)
    asyncio.get_running_loop().call_later(0.02, semaphore.release)
    await semaphore.acquire()


async def bounded() -> None:
    semaphore = asyncio.BoundedSemaphore(1)
    await semaphore.acquire()
    asyncio.get_running_loop().call_later(0.02, semaphore.release)
    async with semaphore:
        pass


async def event() -> None:
    event = asyncio.Event()
    asyncio.get_running_loop().call_later(0.02, event.set)
    await event.wait()


async def condition() -> None:
    condition = asyncio.Condition()

    async def notify() -> None:
        async with condition:
            condition.notify()

    async with condition:
        asyncio.get_running_loop().call_later(0.02, lambda: tasks.append(asyncio.ensure_future(notify())))
        tasks: list[Any] = []
        await condition.wait()


async def getting() -> None:
    queue: asyncio.Queue[int] = asyncio.Queue()
    asyncio.get_running_loop().call_later(0.02, queue.put_nowait, 1)
    await queue.get()


async def putting() -> None:
    queue: asyncio.LifoQueue[int] = asyncio.LifoQueue(1)
    queue.put_nowait(1)
    asyncio.get_running_loop().call_later(0.02, queue.get_nowait)
    await queue.put(2)


async def barrier() -> None:
    barrier = asyncio.Barrier(2)
    asyncio.get_running_loop().call_later(0.02, lambda: tasks.append(asyncio.ensure_future(barrier.wait())))
    tasks: list[Any] = []
    await barrier.wait()
    await tasks[0]


RESOURCES = {
    lock: ("Lock.acquire", "Lock"), semaphore: ("Semaphore.acquire", "Semaphore"),
    bounded: ("Semaphore.acquire", "BoundedSemaphore"), event: ("Event.wait", "Event"),
    condition: ("Condition.wait", "Condition"), getting: ("Queue.get", "Queue"), putting: ("Queue.put", "LifoQueue"),
    barrier: ("Barrier.wait", "Barrier"),
}  # fmt: skip


@both_ways
@pytest.mark.parametrize("program", RESOURCES, ids=lambda program: program.__name__)
def test_what_is_waited_for_is_told_by_its_type(traced_run: TracedRun, spans: Spans, program: Any) -> None:
    target, kind = RESOURCES[program]
    traced_run(program(), await_threshold=0.01)
    assert attributes(spans.named(f"await {target}"))["asyncio.resource.type"] == kind


def test_a_condition_that_was_notified_waits_for_its_lock() -> None:
    async def main(tracer: Any) -> None:
        condition = asyncio.Condition()

        async def notify() -> None:
            async with condition:
                condition.notify()
                await asyncio.sleep(2)

        async with condition:
            task = asyncio.create_task(notify())
            await condition.wait()
        await task

    (wait,) = waits(recorded(main))
    assert (wait["asyncio.resource.type"], wait["asyncio.resource.holder.held_time"]) == ("Lock", 2.0)


@both_providers
@both_ways
def test_the_holder_is_named_with_its_line_and_linked(traced_run: TracedRun, spans: Spans) -> None:
    line = 0

    async def holds(lock: asyncio.Lock) -> None:
        nonlocal line
        line = here() + 1
        async with lock:
            await asyncio.sleep(0.03)

    async def main() -> None:
        with spans.tracer.start_as_current_span("request"):
            lock = asyncio.Lock()
            task = asyncio.create_task(holds(lock), name="the holder")
            await asyncio.sleep(0)
            async with lock:
                await task

    traced_run(main(), **SHORT)
    span = spans.named("await Lock.acquire")
    seen = attributes(span)
    assert seen["asyncio.resource.holder.task"] == "the holder"
    assert (seen["asyncio.resource.holder.file"], seen["asyncio.resource.holder.line"]) == (__file__, line)
    assert seen["asyncio.resource.holder.held_time"] >= 0.02
    assert links(span)["holder"] == span_id(spans.task("holds"))


@both_ways
def test_the_link_leads_to_the_innermost_span_open_in_the_holder(traced_run: TracedRun, spans: Spans) -> None:
    async def holds(lock: asyncio.Lock) -> None:
        with spans.tracer.start_as_current_span("query"):
            async with lock:
                await asyncio.sleep(0.03)

    async def main() -> None:
        with spans.tracer.start_as_current_span("request"):
            lock = asyncio.Lock()
            task = asyncio.create_task(holds(lock))
            await asyncio.sleep(0)
            async with lock:
                await task

    traced_run(main(), **SHORT)
    assert links(spans.named("await Lock.acquire"))["holder"] == span_id(spans.named("query"))


def test_the_time_held_is_exact() -> None:
    async def holds(lock: asyncio.Lock) -> None:
        async with lock:
            await asyncio.sleep(3)

    async def main(tracer: Any) -> None:
        lock = asyncio.Lock()
        task = asyncio.create_task(holds(lock))
        await asyncio.sleep(1)
        async with lock:
            await task

    (wait,) = waits(recorded(main))
    assert (wait["asyncio.await.idle_time"], wait["asyncio.resource.holder.held_time"]) == (2.0, 3.0)


def test_of_several_holders_the_one_that_held_longest_is_blamed() -> None:
    async def holds(lock: asyncio.Lock, seconds: float) -> None:
        async with lock:
            await asyncio.sleep(seconds)

    async def main(tracer: Any) -> None:
        lock = asyncio.Lock()
        tasks = [asyncio.create_task(holds(lock, seconds), name=f"{seconds}") for seconds in (1, 5, 2)]
        await asyncio.sleep(0)
        async with lock:
            pass
        await asyncio.wait(tasks)

    assert [wait["asyncio.resource.holder.task"] for wait in waits(recorded(main))] == ["1", "5", "5"]


def test_a_lock_released_by_another_task_is_free() -> None:
    async def main(tracer: Any) -> None:
        lock = asyncio.Lock()

        async def releases() -> None:
            await asyncio.sleep(1)
            lock.release()

        await lock.acquire()
        task = asyncio.create_task(releases())
        async with lock:
            pass
        await task
        async with lock:  # nobody holds it any more
            await asyncio.sleep(0)

    (wait,) = waits(recorded(main))
    assert wait["asyncio.resource.holder.held_time"] == 1.0


def test_a_lock_whose_holder_has_ended_still_names_it() -> None:
    async def takes(lock: asyncio.Lock) -> None:
        await lock.acquire()

    async def main(tracer: Any) -> None:
        lock = asyncio.Lock()
        await asyncio.create_task(takes(lock), name="gone")
        gc.collect()
        asyncio.get_running_loop().call_later(1, lock.release)
        async with lock:
            pass

    (wait,) = waits(recorded(main))
    assert wait["asyncio.resource.holder.task"] == "gone"


def test_a_lock_taken_before_tracing_has_no_holder_and_works(run: Callable[..., Any], spans: Spans) -> None:
    async def main() -> str:
        lock = asyncio.Lock()
        await lock.acquire()
        with instrumented(spans, **SHORT):
            asyncio.get_running_loop().call_later(0.02, lock.release)

            async def waits() -> str:
                async with lock:
                    return "taken"

            return await asyncio.create_task(waits())

    assert run(main()) == "taken"
    seen = attributes(spans.named("await Lock.acquire"))
    assert seen["asyncio.resource.type"] == "Lock"
    assert not [name for name in seen if "holder" in name]


def test_a_lock_taken_while_tracing_works_afterwards(run: Callable[..., Any], spans: Spans) -> None:
    async def main() -> list[bool]:
        lock = asyncio.Lock()
        with instrumented(spans):
            await lock.acquire()
        states = [lock.locked()]
        lock.release()
        async with lock:
            states.append(lock.locked())
        return [*states, lock.locked()]

    before = vars(asyncio.Lock).get("__setattr__")
    assert run(main()) == [True, True, False]
    assert vars(asyncio.Lock).get("__setattr__") is before


async def cancelled_acquire() -> Any:
    lock = asyncio.Lock()
    await lock.acquire()

    async def waits() -> None:
        async with lock:
            pass

    task = asyncio.create_task(waits())
    await asyncio.sleep(0.02)
    task.cancel("no more")
    try:
        await task
    except asyncio.CancelledError as error:
        frames = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
        state = lock.locked(), len(lock._waiters or ())  # type: ignore[attr-defined]
        lock.release()
        return frames, error.args, state, vars(lock).keys()
    return None


@both_ways
def test_a_cancelled_acquire_is_as_without_tracing(same_as_bare: Callable[..., Any]) -> None:
    """T6."""
    assert same_as_bare(cancelled_acquire)


async def wrong_release() -> Any:
    try:
        asyncio.Lock().release()
    except RuntimeError as error:
        return str(error), len(list(traceback.walk_tb(error.__traceback__)))
    return None


@both_ways
def test_a_wrong_release_is_refused_as_without_tracing(same_as_bare: Callable[..., Any]) -> None:
    assert same_as_bare(wrong_release)


class Counting(asyncio.Lock):
    """A lock of the program's own, with attributes of its own."""

    def __init__(self) -> None:
        self.taken = 0
        super().__init__()

    async def acquire(self) -> Any:
        self.taken += 1
        return await super().acquire()


async def subclassed() -> Any:
    lock = Counting()
    async with lock:
        pass
    async with lock:
        return lock.taken, lock.locked()


@both_ways
def test_a_subclass_of_lock_works_as_without_tracing(same_as_bare: Callable[..., Any]) -> None:
    assert same_as_bare(subclassed) == (2, True)


@both_ways
def test_neither_lock_nor_task_is_kept_alive(traced_run: TracedRun) -> None:
    """T10."""

    async def main() -> list[object]:
        lock = asyncio.Lock()
        task = asyncio.create_task(lock.acquire())
        await task
        dead = [weakref.ref(lock), weakref.ref(task)]
        del lock, task
        await asyncio.sleep(0)  # this step was woken by the task
        gc.collect()
        return [ref() for ref in dead]

    assert traced_run(main()) == [None, None]


def test_of_very_many_locks_that_are_held_the_oldest_are_forgotten(run: Callable[..., Any]) -> None:
    locks = Locks(lambda: 0)
    stop = locks.install()

    async def main() -> int:
        kept = [asyncio.Lock() for _ in range(12_000)]  # all at once, or they would die at the same place
        for lock in kept:
            await lock.acquire()
        return len(locks._holds)

    try:
        assert run(main()) <= 10_000
    finally:
        stop()


def test_whoever_stops_first_leaves_the_others_looking() -> None:
    before = vars(asyncio.Lock).get("__setattr__")
    first, second = Locks(lambda: 1), Locks(lambda: 2)
    stop_first, stop_second = first.install(), second.install()
    stop_first()
    lock = asyncio.Lock()
    asyncio.run(_acquired(lock))
    hold = second.holder_of(lock)
    assert first.holder_of(lock) is None
    stop_second()
    assert hold is not None and hold.since == 2
    assert vars(asyncio.Lock).get("__setattr__") is before


def test_a_set_attribute_of_somebody_elses_goes_on_working(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def before(self: Any, name: str, value: Any) -> None:
        seen.append((name, value))
        if name == "refused":
            raise LookupError(name)
        object.__setattr__(self, name, value)

    monkeypatch.setattr(asyncio.Lock, "__setattr__", before, raising=False)
    locks = Locks(lambda: 1)
    stop = locks.install()
    lock = asyncio.Lock()
    asyncio.run(_acquired(lock))
    assert locks.holder_of(lock) is not None
    with pytest.raises(LookupError):
        setattr(lock, "refused", 1)  # noqa: B010 - mypy knows that there is none
    stop()
    assert ("_locked", True) in seen
    assert vars(asyncio.Lock)["__setattr__"] is before


def test_an_attribute_is_set_by_hand_as_ever() -> None:
    stop = Locks(lambda: 1).install()
    try:
        lock = asyncio.Lock()
        lock.__setattr__("mark", 1)
        asyncio.Lock.__setattr__(lock, "other", 2)
        assert (vars(lock)["mark"], vars(lock)["other"]) == (1, 2)
        for arguments in ((), ("mark",), ("mark", 1, 2), (3, 4)):
            with pytest.raises(TypeError):
                lock.__setattr__(*arguments)
        with pytest.raises(AttributeError):
            del lock.nothing  # type: ignore[attr-defined]
    finally:
        stop()


def test_of_very_many_lines_that_take_locks_each_is_told(run: Callable[..., Any]) -> None:
    """Also where two of them are remembered at the same place."""
    body = "".join(f"    await locks[{n}].acquire()\n" for n in range(500))
    program: dict[str, Any] = {}
    exec(compile(f"async def take(locks):\n{body}", "take.py", "exec"), program)  # noqa: S102
    locks = Locks(lambda: 1)

    async def main() -> list[int | None]:
        found = [asyncio.Lock() for _ in range(500)]
        for _ in range(2):
            await program["take"](found)
            lines = [
                hold.site.line for hold in map(locks.holder_of, found) if hold is not None and hold.site is not None
            ]
            for lock in found:
                lock.release()
        return lines

    stop = locks.install()
    try:
        assert run(main()) == list(range(2, 502))
    finally:
        stop()


def test_a_loop_that_goes_without_being_closed_leaves_nothing_behind(spans: Spans) -> None:
    """Of the one that a task factory traces."""

    def run_one() -> None:
        loop = asyncio.new_event_loop()
        loop.set_task_factory(task_factory(tracer_provider=spans.provider))
        loop.run_until_complete(asyncio.sleep(0))
        installed.append(vars(asyncio.Lock).get("__setattr__"))

    before, installed = vars(asyncio.Lock).get("__setattr__"), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        run_one()
        gc.collect()
    assert installed != [None]
    assert vars(asyncio.Lock).get("__setattr__") is before


async def _acquired(lock: asyncio.Lock) -> None:
    await lock.acquire()


def test_who_waits_for_which_lock_and_who_holds_it_can_be_asked(
    run: Callable[..., Any], instrumented_process: Any
) -> None:
    """What a search for deadlocks goes by."""

    async def main() -> None:
        lock, locks = asyncio.Lock(), instrumented_process.observation.locks
        task = asyncio.current_task()
        assert task is not None
        await lock.acquire()
        waiter = asyncio.create_task(_acquired(lock))
        await asyncio.sleep(0)
        assert waited_for(follow(waiter)) is lock
        hold: Hold = locks.holder_of(lock)
        assert (hold.task_name, hold.task) == (task.get_name(), task)
        assert hold.site is not None and hold.site.code is main.__code__
        lock.release()
        await waiter

    run(main())


def test_what_fails_in_looking_at_a_lock_is_said_once_and_the_lock_locks(
    run: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """T20."""

    def fails() -> int:
        raise LookupError

    stop = Locks(fails).install()

    async def main() -> bool:
        lock = asyncio.Lock()
        for _ in range(3):
            async with lock:
                assert lock.locked()
        return lock.locked()

    try:
        assert run(main()) is False
    finally:
        stop()
    assert len([record for record in caplog.records if record.name == "otel_asyncio"]) == 1
