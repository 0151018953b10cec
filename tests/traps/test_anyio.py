"""T3 and T4: anyio keeps working, with eager tasks and without."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream
from harness import (
    NewLoop,
    Spans,
    TracedRun,
    both_ways,
    eager_factory,
    instrumented,
    needs_python,
    run_on,
    skip_where_bare_uvloop_cannot,
)

History = list[Any]


async def scopes() -> History:
    """Cancel scopes of all kinds, left by tasks that anyio started."""
    history: History = []

    async def worker(number: int) -> None:
        with anyio.CancelScope() as own:
            await anyio.sleep(0)
            if number == 1:
                own.cancel()
            await anyio.sleep(0)
            history.append(f"worker {number} went on")
        history.append((number, own.cancelled_caught))

    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(worker, number)
    with anyio.move_on_after(0.001) as moved:
        await anyio.sleep_forever()
    history.append(("moved", moved.cancelled_caught))
    return [*sorted(map(str, history)), *await failing_scopes()]


async def failing_scopes() -> History:
    """What leaves a deadline, a shield and a task group."""
    history: History = []
    try:
        with anyio.fail_after(0.001):
            await anyio.sleep_forever()
    except TimeoutError:
        history.append("timeout")

    async def fail() -> None:
        raise LookupError("sibling")

    async def wait_for_ever() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0)
            history.append("cleaned up")

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(wait_for_ever)
            await anyio.sleep(0)
            group.start_soon(fail)
    except* LookupError as caught:
        history.append([str(error) for error in caught.exceptions])
    task = asyncio.current_task()
    return [*history, task and task.cancelling()]


@both_ways
def test_cancel_scopes_end_as_without_tracing(same_as_bare: Callable[..., Any]) -> None:
    """T4."""
    same_as_bare(scopes)


@needs_python(3, 12)
@both_ways
def test_cancel_scopes_work_with_an_eager_factory(
    same_as_bare: Callable[..., Any], loop_kind: str, traced_run: TracedRun, new_loop: NewLoop
) -> None:
    """T3: the factory is set on the loop from the beginning, ours around it or beneath it."""
    skip_where_bare_uvloop_cannot(loop_kind)
    bare = run_on(traced_run.loop_with(None), scopes())
    assert traced_run(scopes(), inner=eager_factory()) == bare


@needs_python(3, 12)
@both_ways
def test_cancel_scopes_work_with_an_eager_factory_set_after_ours(
    loop_kind: str, run: Callable[..., Any], traced_run: TracedRun
) -> None:
    """T3: the program sets the eager factory on a loop that is traced already."""
    skip_where_bare_uvloop_cannot(loop_kind)

    async def main(factory: Any) -> History:
        asyncio.get_running_loop().set_task_factory(factory)
        return await scopes()

    assert traced_run(main(traced_run.factory(eager_factory()))) == run(main(eager_factory()))


@needs_python(3, 12)
def test_cancel_scopes_work_when_traced_after_the_eager_factory_was_set(
    loop_kind: str, run: Callable[..., Any], spans: Spans
) -> None:
    """T3: the other order."""
    skip_where_bare_uvloop_cannot(loop_kind)

    async def main(*, traced: bool) -> History:
        asyncio.get_running_loop().set_task_factory(eager_factory())
        if not traced:
            return await scopes()
        with instrumented(spans):
            return await scopes()

    assert run(main(traced=True)) == run(main(traced=False))


@needs_python(3, 12)
@both_ways
def test_tasks_that_anyio_starts_on_an_eager_loop_are_recorded(
    loop_kind: str, traced_run: TracedRun, spans: Spans
) -> None:
    """T3: anyio takes the constructor out of the factory and calls it itself."""
    skip_where_bare_uvloop_cannot(loop_kind)

    async def started_by_anyio() -> None:
        await anyio.sleep(0)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(started_by_anyio)

    traced_run(main(), inner=eager_factory())
    assert len(spans.of("started_by_anyio")) == 1


@both_ways
def test_a_task_of_anyio_is_named_after_its_function(traced_run: TracedRun, spans: Spans) -> None:
    """T4: newer versions run it in a coroutine of their own; the span is called after the user's."""

    async def started_by_anyio() -> None:
        await anyio.sleep(0)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(started_by_anyio)

    traced_run(main())
    assert len(spans.of("started_by_anyio")) == 1


@both_ways
def test_happy_eyeballs_reach_the_second_address(
    same_as_bare: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """T4: `connect_tcp` races the addresses in a task group and cancels the losers."""
    family_and_rest = (2, 1, 6, "")

    async def two_addresses(host: object, port: int, **_: object) -> list[Any]:
        return [(*family_and_rest, (address, port)) for address in ("127.0.0.2", "127.0.0.1")]

    monkeypatch.setattr("anyio._core._sockets.getaddrinfo", two_addresses)

    async def answer(stream: SocketStream) -> None:
        async with stream:
            await stream.send(b"hello")

    async def main() -> bytes:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, answer)
            async with await anyio.connect_tcp("two.addresses.test", port) as stream:
                received = await stream.receive()
            group.cancel_scope.cancel()
        return received

    assert same_as_bare(main) == b"hello"


def test_anyio_run_is_traced(loop_kind: str, instrumented_process: object, spans: Spans) -> None:
    """T12: `anyio.run` makes its loops itself."""

    async def main() -> None:
        await anyio.sleep(0)

    anyio.run(main, backend_options={"use_uvloop": loop_kind == "uvloop"})
    assert len(spans.of("main")) == 1
