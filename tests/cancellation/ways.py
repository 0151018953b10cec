"""Every way in which a task can be cancelled: a program, and what its trace must say of the task called `victim`."""

from __future__ import annotations

import asyncio
import inspect
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

ALL: list[Way] = []


@dataclass
class Way:
    """A program, the attributes of the cancel spans of its victims, and where they are cancelled and hit.

    `by` and `at` are marks: `# by`, `# at` in the source of the program or of its victim.
    """

    program: Callable[[], Any]
    says: dict[str, Any]
    spans: int = 1
    by: str | None = "by"
    at: str | None = "at"
    canceller: str | None = "main"
    extra: dict[str, Any] = field(default_factory=dict)
    needs: tuple[int, ...] = (3, 11)
    before: tuple[int, ...] = (4,)
    """From this version of Python on it cannot be had."""

    @property
    def name(self) -> str:
        return self.program.__name__


def way(
    origin: str, outcome: str = "delivered", *, expected: bool, via: str | None = None, requests: int = 1, **others: Any
) -> Any:
    def register(program: Any) -> Any:
        says = {"origin": origin, "outcome": outcome, "expected": expected, "via": via, "requests": requests}
        ALL.append(Way(program, says, **others))
        return program

    return register


def line_of(mark: str, function: Any) -> int:
    """The line with this mark."""
    lines, first = inspect.getsourcelines(function)
    return next(first + number for number, line in enumerate(lines) if line.rstrip().endswith(f"# {mark}"))


async def victim() -> None:
    await asyncio.Event().wait()  # at


async def ended(task: Any) -> Any:
    """How a task ended, as something to compare."""
    await asyncio.wait([task])
    return "cancelled" if task.cancelled() else repr(task.exception() or task.result()), task.cancelling()


async def turn(times: int = 2) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


@way("explicit", expected=True)
async def by_another_task() -> Any:
    task = asyncio.create_task(victim())
    await turn()
    task.cancel()  # by
    return await ended(task)


@way("explicit", expected=False, at=None, canceller=None)
async def by_itself() -> Any:
    async def victim() -> None:
        asyncio.current_task().cancel()  # by
        await asyncio.sleep(60)

    return await ended(asyncio.create_task(victim()))


@way("explicit", expected=False, canceller=None)
async def by_a_callback() -> Any:
    task = asyncio.create_task(victim())
    await turn()

    def callback() -> None:
        task.cancel()  # by

    asyncio.get_running_loop().call_soon(callback)
    return await ended(task)


@way("explicit", expected=False, by=None, canceller=None)
async def as_a_timer() -> Any:
    task = asyncio.create_task(victim())
    await turn()
    asyncio.get_running_loop().call_later(0.001, task.cancel)
    return await ended(task)


@way("explicit", expected=False)
async def behind_an_error() -> Any:
    task = asyncio.create_task(victim())
    await turn()
    try:
        raise LookupError
    except LookupError:
        task.cancel()  # by
    return await ended(task)


@way("thread", expected=False, canceller=None)
async def from_another_thread() -> Any:
    loop, result = asyncio.get_running_loop(), []

    def elsewhere() -> None:
        future = asyncio.run_coroutine_threadsafe(victim(), loop)
        loop.call_soon_threadsafe(started.set)
        suspended.wait(10)
        result.append(future.cancel())  # by

    started, suspended = asyncio.Event(), threading.Event()
    thread = threading.Thread(target=elsewhere, name="elsewhere")
    thread.start()
    await started.wait()
    await turn()
    (task,) = asyncio.all_tasks() - {asyncio.current_task()}
    suspended.set()
    said = await ended(task)
    thread.join()
    return said, result


@way("thread", expected=False, canceller=None)
async def handed_over_by_another_thread() -> Any:
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(victim())
    await turn()

    def elsewhere() -> None:
        loop.call_soon_threadsafe(task.cancel)  # by

    thread = threading.Thread(target=elsewhere)
    thread.start()
    said = await ended(task)
    thread.join()
    return said


@way("explicit", expected=True, via="awaiter")
async def handed_on_by_the_awaiter() -> Any:
    inner = asyncio.create_task(victim())

    async def outer() -> None:
        await middle

    async def between() -> None:
        await inner

    middle = asyncio.create_task(between())
    task = asyncio.create_task(outer())
    await turn(3)
    task.cancel()  # by
    return await ended(task), await ended(inner)


ALL[-1].says["expected"] = False  # main has made them all: the one that hands it on has made none


@way("explicit", expected=True, via="awaiter", canceller="main")
async def handed_on_to_its_own_task() -> Any:
    async def outer() -> None:
        await asyncio.create_task(victim())

    task = asyncio.create_task(outer())
    await turn(3)
    task.cancel()  # by
    return await ended(task)


@way("explicit", expected=False, via="awaiter", canceller="asks_itself")
async def handed_on_by_who_asked_itself() -> Any:
    async def asks_itself() -> None:
        task = asyncio.create_task(victim())
        await turn()
        asyncio.current_task().cancel()  # by
        await task

    return await ended(asyncio.create_task(asks_itself()))


@way("explicit", expected=True, via="gather", spans=2)
async def by_gather() -> Any:
    tasks = [asyncio.create_task(victim()) for _ in range(2)]
    everything = asyncio.gather(*tasks)
    await turn()
    everything.cancel()  # by
    try:
        await everything
    except asyncio.CancelledError:
        return [await ended(task) for task in tasks]


@way("explicit", expected=True, via="gather", spans=2)
async def by_the_awaiter_of_gather() -> Any:
    async def outer() -> None:
        await asyncio.gather(victim(), victim())

    task = asyncio.create_task(outer())
    await turn(3)
    task.cancel()  # by
    return await ended(task)


async def fail() -> None:
    await turn(3)
    raise LookupError


@way("task_group", expected=False, by=None, canceller="fail")
async def by_a_failing_sibling() -> Any:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(victim())
            group.create_task(fail())
    except ExceptionGroup as errors:
        return repr(errors), asyncio.current_task().cancelling()


@way("task_group", expected=False)
async def by_a_failing_body() -> Any:
    try:
        async with asyncio.TaskGroup() as group:  # by
            group.create_task(victim())
            await turn(3)
            raise LookupError
    except ExceptionGroup as errors:
        return repr(errors), asyncio.current_task().cancelling()


@way("explicit", expected=True, via="task_group")
async def by_the_parent_of_a_group() -> Any:
    async def parent() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(victim())

    task = asyncio.create_task(parent())
    await turn(3)
    task.cancel()  # by
    return await ended(task)


@way("explicit", expected=True, spans=0, by=None, at=None)
async def through_a_shield() -> Any:
    inner = asyncio.create_task(victim())

    async def outer() -> None:
        await asyncio.shield(inner)

    task = asyncio.create_task(outer())
    inner.get_loop().call_later(60, inner.done)  # held until then
    await turn(3)
    task.cancel()
    said = await ended(task), inner.done()
    return said


ALL[-1].spans = 1  # by the loop's end
ALL[-1].says.update(origin="shutdown", via=None)
ALL[-1].at = "at"
ALL[-1].canceller = None


@way("shutdown", expected=True, by=None, canceller=None)
async def by_the_end_of_the_loop() -> Any:
    task = asyncio.create_task(victim())
    asyncio.get_running_loop().call_later(60, task.done)  # held until then
    await turn()


@way("self", expected=True, by=None, at=None, canceller=None)
async def by_hand() -> Any:
    async def victim() -> None:
        raise asyncio.CancelledError

    return await ended(asyncio.create_task(victim()))


@way("self", expected=True, by=None, at=None, canceller=None)
async def by_a_cancelled_future() -> Any:
    async def victim() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    return await ended(asyncio.create_task(victim()))


@way("explicit", expected=False, via="awaited", at=None)
async def by_what_it_awaited() -> Any:
    async def other() -> None:
        await asyncio.Event().wait()

    async def victim() -> None:
        await below

    below = asyncio.create_task(other())
    task = asyncio.create_task(victim())
    await turn()
    below.cancel()  # by
    return await ended(task)


@way("explicit", expected=True, at=None)
async def before_the_first_step() -> Any:
    task = asyncio.create_task(victim())
    task.cancel()  # by
    return await ended(task)


@way("explicit", expected=True, needs=(3, 12), before=(3, 14))  # then nobody tells of it until it wakes up
async def one_that_was_started_eagerly() -> Any:
    task: Any = asyncio.Task(victim(), loop=asyncio.get_running_loop(), eager_start=True)
    task.cancel()  # by
    return await ended(task)


@way("self", expected=True, by=None, at=None, canceller=None)
async def by_the_result_that_as_completed_hands_over() -> Any:
    async def other() -> None:
        await asyncio.Event().wait()

    async def victim() -> None:
        for first in asyncio.as_completed([below]):
            await first

    below = asyncio.create_task(other())
    task = asyncio.create_task(victim())
    await turn(3)
    below.cancel()
    return await ended(task)


@way("explicit", expected=True)
async def while_asyncio_wait_looks_on() -> Any:
    """`asyncio.wait` that is cancelled leaves alone what it waits for."""

    async def waits() -> None:
        await asyncio.wait([task])

    task = asyncio.create_task(victim())
    watcher = asyncio.create_task(waits())
    await turn(3)
    watcher.cancel()
    said = await ended(watcher), task.done()
    task.cancel()  # by
    return said, await ended(task)


@way("explicit", expected=True, requests=3)
async def several_times() -> Any:
    task = asyncio.create_task(victim())
    await turn()
    task.cancel()  # by
    task.cancel()
    task.cancel()
    return await ended(task)


@way("explicit", expected=True, requests=2)
async def while_it_deals_with_it() -> Any:
    async def victim() -> None:
        try:
            await asyncio.Event().wait()  # at
        finally:
            await asyncio.sleep(60)

    task = asyncio.create_task(victim())
    await turn()
    task.cancel()  # by
    await turn()
    task.cancel()
    return await ended(task)


@way("explicit", "handled", expected=True)
async def a_clean_stop() -> Any:
    async def victim() -> str:
        try:
            await asyncio.Event().wait()  # at
        except asyncio.CancelledError:
            await turn()
        return "stopped"

    task = asyncio.create_task(victim())
    await turn()
    task.cancel()  # by
    return await ended(task)


@way("explicit", expected=True)
async def a_long_cleanup() -> Any:
    async def victim() -> None:
        try:
            await asyncio.Event().wait()  # at
        finally:
            await asyncio.sleep(0.15)

    task = asyncio.create_task(victim())
    await turn()
    task.cancel()  # by
    return await ended(task)


@way("explicit", "suppressed", expected=False)
async def swallowed() -> Any:
    async def victim() -> str:
        try:
            await asyncio.Event().wait()  # at
        except asyncio.CancelledError:  # swallowed
            pass
        await asyncio.sleep(0.15)
        return "went on"

    task = asyncio.create_task(victim())
    await turn()
    task.cancel()  # by
    return await ended(task)


ALL[-1].extra = {"asyncio.problem": "cancel_suppressed"}


@way("explicit", expected=True, spans=0, by=None, at=None, canceller=None)
async def taken_back_by_hand() -> Any:
    async def victim() -> Any:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            asyncio.current_task().uncancel()
        await asyncio.sleep(0.15)

    task = asyncio.create_task(victim())
    await turn()
    task.cancel()
    return await ended(task)


@way("timeout", expected=False, via="awaiter", by="scope", canceller="main")
async def by_a_timeout_around_it() -> Any:
    task = asyncio.create_task(victim())
    try:
        async with asyncio.timeout(0.01):  # scope
            await task
    except TimeoutError:
        return await ended(task), asyncio.current_task().cancelling()


@way("timeout", expected=False, via="awaiter", by="scope", canceller="main")
async def by_wait_for() -> Any:
    task = asyncio.create_task(victim())
    try:
        await asyncio.wait_for(task, 0.01)  # scope
    except TimeoutError:
        return await ended(task), asyncio.current_task().cancelling()


@way("signal", expected=True, by=None, canceller=None)
async def as_a_signal_handler() -> Any:
    task = asyncio.create_task(victim())
    await turn()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, task.cancel)
    signal.raise_signal(signal.SIGUSR2)
    return await ended(task), asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR2)


@way("signal", expected=False, canceller=None)
async def by_a_signal_handler() -> Any:
    def handler(task: Any) -> None:
        task.cancel()  # by

    task = asyncio.create_task(victim())
    await turn()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, handler, task)
    signal.raise_signal(signal.SIGUSR2)
    return await ended(task)


@way("explicit", expected=False, canceller=None)
async def by_what_is_a_signal_handler_too() -> Any:
    """Called as any callback is: no signal came."""

    def handler() -> None:
        task.cancel()  # by

    task = asyncio.create_task(victim())
    await turn()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, handler)
    asyncio.get_running_loop().call_soon(handler)
    return await ended(task)
