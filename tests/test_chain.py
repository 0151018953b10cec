"""The chain of awaits below a suspended task: its lines, the one to blame, and what is awaited, in the reader's words."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
import sys
import threading
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any

import anyio
import pytest
from harness import NewLoop, asyncio_only, needs_python, run_on

from otel_asyncio.emit.stacks import stacktrace
from otel_asyncio.observe import chain as chain_module
from otel_asyncio.observe.chain import Chain, follow, walk

DEPTH = 32
Waits = Callable[[], Awaitable[Any]]


def here() -> int:
    """The line that calls this."""
    frame = inspect.currentframe()
    assert frame is not None and frame.f_back is not None
    return frame.f_back.f_lineno


class Scene:
    """What the waits below wait for. Nothing here ever comes."""

    def __init__(self) -> None:
        self.lock, self.semaphore = asyncio.Lock(), asyncio.BoundedSemaphore(1)
        self.condition, self.event = asyncio.Condition(), asyncio.Event()
        self.queue: asyncio.Queue[int] = asyncio.Queue()
        self.full: asyncio.PriorityQueue[int] = asyncio.PriorityQueue(1)
        self.full.put_nowait(1)
        self.never = asyncio.get_running_loop().create_future()
        self.reader = asyncio.StreamReader()
        self.thread = threading.Event()

    async def close(self) -> None:
        self.thread.set()
        self.event.set()


async def never(scene: Scene) -> None:
    await scene.never


async def sleeps(scene: Scene) -> None:
    await asyncio.sleep(60)


async def reads(scene: Scene) -> None:
    await scene.reader.read(1)


async def reads_a_line(scene: Scene) -> None:
    await scene.reader.readline()


async def locks(scene: Scene) -> None:
    await scene.lock.acquire()
    await scene.lock.acquire()


async def locks_with(scene: Scene) -> None:
    await scene.lock.acquire()
    async with scene.lock:
        pass


async def locks_on_a_stack(scene: Scene) -> None:
    await scene.lock.acquire()
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(scene.lock)


async def is_notified_while_locked(scene: Scene) -> None:
    async def notify() -> None:
        async with scene.condition:
            scene.condition.notify()
            await scene.event.wait()

    async with scene.condition:
        task = asyncio.create_task(notify())
        await scene.condition.wait()
    await task


async def semaphores(scene: Scene) -> None:
    async with scene.semaphore, scene.semaphore:
        pass


async def conditions(scene: Scene) -> None:
    async with scene.condition:
        await scene.condition.wait()


async def conditions_for(scene: Scene) -> None:
    async with scene.condition:
        await scene.condition.wait_for(lambda: False)


async def events(scene: Scene) -> None:
    await scene.event.wait()


async def gets(scene: Scene) -> None:
    await scene.queue.get()


async def puts(scene: Scene) -> None:
    await scene.full.put(2)


async def joins(scene: Scene) -> None:
    await scene.full.join()


async def awaits_a_task(scene: Scene) -> None:
    task = asyncio.create_task(never(scene), name="not to be seen")
    await task


async def gathers(scene: Scene) -> None:
    await asyncio.gather(never(scene), never(scene))


async def waits_for_a_coroutine(scene: Scene) -> None:
    await asyncio.wait_for(scene.queue.get(), 60)


async def waits_for_a_task(scene: Scene) -> None:
    await asyncio.wait_for(asyncio.create_task(never(scene)), 60)


async def waits(scene: Scene) -> None:
    await asyncio.wait([asyncio.create_task(never(scene))])


async def as_completed(scene: Scene) -> None:
    for each in asyncio.as_completed([never(scene)]):
        await each


async def shields(scene: Scene) -> None:
    await asyncio.shield(asyncio.create_task(never(scene)))


async def groups(scene: Scene) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(never(scene))


async def has_a_deadline(scene: Scene) -> None:
    async with asyncio.timeout(60):
        await scene.event.wait()


async def in_a_thread(scene: Scene) -> None:
    await asyncio.to_thread(scene.thread.wait, 60)


async def receives(scene: Scene) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        await asyncio.get_running_loop().sock_recv(ours, 1)


async def awaits_a_future(scene: Scene) -> None:
    await scene.never


async def sleeps_in_anyio(scene: Scene) -> None:
    await anyio.sleep(60)


async def groups_in_anyio(scene: Scene) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(never, scene)


async def in_a_thread_of_anyio(scene: Scene) -> None:
    await anyio.to_thread.run_sync(scene.thread.wait)


async def queues_for_a_thread_of_anyio(scene: Scene) -> None:
    limiter = anyio.CapacityLimiter(1)
    limiter.acquire_on_behalf_of_nowait(scene)
    await anyio.to_thread.run_sync(scene.thread.wait, limiter=limiter)


async def streams_in_anyio(scene: Scene) -> None:
    send, receive = anyio.create_memory_object_stream[int](0)
    with send, receive, anyio.move_on_after(60):
        await receive.receive()


WAITS = {
    sleeps: "asyncio.sleep", reads: "StreamReader.read", reads_a_line: "StreamReader.readline",
    locks: "Lock.acquire", locks_with: "Lock.acquire", locks_on_a_stack: "Lock.acquire",
    is_notified_while_locked: "Lock.acquire", semaphores: "Semaphore.acquire", conditions: "Condition.wait",
    conditions_for: "Condition.wait_for", events: "Event.wait", gets: "Queue.get", puts: "Queue.put",
    joins: "Queue.join", awaits_a_task: "task never", gathers: "gather", waits_for_a_coroutine: "Queue.get",
    waits_for_a_task: "task never", waits: "asyncio.wait", as_completed: "asyncio.as_completed",
    shields: "task never", groups: "TaskGroup", has_a_deadline: "Event.wait", in_a_thread: "to_thread Event.wait",
    receives: "loop.sock_recv", awaits_a_future: "awaits_a_future", sleeps_in_anyio: "anyio.sleep",
    groups_in_anyio: "TaskGroup", in_a_thread_of_anyio: "anyio.to_thread.run_sync",
    queues_for_a_thread_of_anyio: "CapacityLimiter.acquire",
    streams_in_anyio: "MemoryObjectReceiveStream.receive",
}  # fmt: skip


async def seen(waits: Callable[[Scene], Awaitable[Any]]) -> Chain:
    """The chain of a task that has come to where it waits."""
    scene = Scene()
    task: Any = asyncio.ensure_future(waits(scene))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not task.done()
    chain = walk(task, DEPTH)
    task.cancel()
    await scene.close()
    with contextlib.suppress(asyncio.CancelledError, BaseExceptionGroup):
        await task
    return chain


@pytest.mark.parametrize("waits", WAITS, ids=lambda waits: waits.__name__)
def test_what_is_awaited_is_called_in_the_readers_words(new_loop: NewLoop, waits: Any) -> None:
    assert run_on(new_loop, seen(waits)).target == WAITS[waits]


@pytest.mark.parametrize("waits", WAITS, ids=lambda waits: waits.__name__)
def test_the_line_to_blame_is_the_programs(new_loop: NewLoop, waits: Any) -> None:
    blame = run_on(new_loop, seen(waits)).blame
    assert blame is not None
    assert (blame.code.file, blame.qualname) == (__file__, waits.__name__)
    assert blame.line > waits.__code__.co_firstlineno


LINES: dict[str, int] = {}


async def leaf(scene: Scene) -> None:
    LINES["leaf"] = here() + 1
    await scene.never


class Custom:
    """Awaitable by a generator."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def __await__(self) -> Generator[Any, None, None]:
        LINES["Custom.__await__"] = here() + 1
        yield from leaf(self.scene).__await__()


@types.coroutine
def old_style(scene: Scene) -> Generator[Any, None, None]:
    LINES["old_style"] = here() + 1
    yield from leaf(scene).__await__()


async def generator(scene: Scene) -> AsyncIterator[int]:
    LINES["generator"] = here() + 1
    await leaf(scene)
    yield 1


async def closing(scene: Scene) -> AsyncIterator[int]:
    try:
        yield 1
    finally:
        LINES["closing"] = here() + 1
        await leaf(scene)


@contextlib.asynccontextmanager
async def managed(scene: Scene) -> AsyncIterator[None]:
    LINES["managed"] = here() + 1
    await leaf(scene)
    yield


class Manager:
    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: object) -> None:
        LINES["Manager.__aexit__"] = here() + 1
        await leaf(self.scene)


async def custom(scene: Scene) -> None:
    await Custom(scene)


async def generator_based(scene: Scene) -> None:
    await old_style(scene)


async def iterates(scene: Scene) -> None:
    async for _ in generator(scene):
        pass


async def comprehends(scene: Scene) -> None:
    [item async for item in generator(scene)]


async def asks(scene: Scene) -> None:
    await anext(generator(scene))


async def asks_with_a_default(scene: Scene) -> None:
    await anext(generator(scene), None)


async def sends(scene: Scene) -> None:
    await generator(scene).asend(None)  # type: ignore[attr-defined]


async def closes(scene: Scene) -> None:
    iterator: Any = closing(scene)
    await anext(iterator)
    await iterator.aclose()


async def throws(scene: Scene) -> None:
    iterator: Any = closing(scene)
    await anext(iterator)
    await iterator.athrow(LookupError())


async def manages(scene: Scene) -> None:
    async with managed(scene):
        pass


async def exits(scene: Scene) -> None:
    async with Manager(scene):
        pass


async def times_out(scene: Scene) -> None:
    async with asyncio.timeout(60):
        await leaf(scene)


async def moves_on(scene: Scene) -> None:
    with anyio.move_on_after(60):
        await leaf(scene)


CHAINS = {
    custom: ["custom", "Custom.__await__"], generator_based: ["generator_based", "old_style"],
    iterates: ["iterates", "generator"], comprehends: ["comprehends", "generator"], asks: ["asks", "generator"],
    asks_with_a_default: ["asks_with_a_default", "generator"], sends: ["sends", "generator"],
    closes: ["closes", "closing"], throws: ["throws", "closing"], exits: ["exits", "Manager.__aexit__"],
    manages: ["manages", "_AsyncGeneratorContextManager.__aenter__", "managed"],
    times_out: ["times_out"], moves_on: ["moves_on"],
}  # fmt: skip


@pytest.mark.parametrize("waits", CHAINS, ids=lambda waits: waits.__name__)
def test_the_chain_is_whole(new_loop: NewLoop, waits: Any) -> None:
    chain = run_on(new_loop, seen(waits))
    assert [frame.qualname for frame in chain.frames if "<" not in frame.qualname] == [*CHAINS[waits], "leaf"]
    assert chain.omitted == 0


@pytest.mark.parametrize("waits", CHAINS, ids=lambda waits: waits.__name__)
def test_every_line_of_the_chain_is_the_one_that_waits(new_loop: NewLoop, waits: Any) -> None:
    chain = run_on(new_loop, seen(waits))
    lines = {frame.qualname: frame.line for frame in chain.frames}
    expected = {name: LINES[name] for name in [*CHAINS[waits], "leaf"] if name in LINES}
    assert {name: lines[name] for name in expected} == expected


@pytest.mark.parametrize("waits", CHAINS, ids=lambda waits: waits.__name__)
def test_the_innermost_line_is_to_blame(new_loop: NewLoop, waits: Any) -> None:
    chain = run_on(new_loop, seen(waits))
    assert chain.blame == chain.frames[-1]
    assert chain.target == "leaf"


@needs_python(3, 12)
def test_wait_for_is_followed_into_what_it_waits_for(new_loop: NewLoop) -> None:
    async def waits(scene: Scene) -> None:
        await asyncio.wait_for(leaf(scene), 60)

    chain = run_on(new_loop, seen(waits))
    assert [frame.qualname.rpartition(".")[2] for frame in chain.frames] == ["waits", "wait_for", "leaf"]


class Opaque:
    """Awaitable by an iterator that nobody can look into, and whose attributes nobody may touch."""

    asked: list[str] = []

    def __init__(self, scene: Scene) -> None:
        self._iterator = scene.never.__await__()

    def __await__(self) -> Any:
        return self

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return next(self._iterator)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in ("close", "throw", "send"):  # which Python asks for
            self.asked.append(name)
        raise AttributeError(name)


def test_an_awaitable_that_cannot_be_looked_into_ends_the_chain_by_its_type(new_loop: NewLoop) -> None:
    async def waits(scene: Scene) -> None:
        await Opaque(scene)  # type: ignore[misc]

    chain = run_on(new_loop, seen(waits))
    assert chain.target == "Opaque"
    assert len(chain.frames) == 1
    assert Opaque.asked == []


async def dive(levels: int, scene: Scene) -> None:
    await (dive(levels - 1, scene) if levels else leaf(scene))


@asyncio_only
def test_of_a_long_chain_the_innermost_part_is_kept(new_loop: NewLoop) -> None:
    """T23."""
    chain = run_on(new_loop, seen(lambda scene: dive(200, scene)))
    assert len(chain.frames) == DEPTH
    assert chain.omitted == 202 - DEPTH
    assert chain.frames[-1].qualname == "leaf"


@asyncio_only
def test_a_chain_of_which_nothing_is_kept_still_has_a_target_and_a_line_to_blame(new_loop: NewLoop) -> None:
    async def main() -> Chain:
        scene = Scene()
        task = asyncio.create_task(sleeps(scene))
        await asyncio.sleep(0)
        chain = walk(task, 0)
        task.cancel()
        return chain

    chain = run_on(new_loop, main())
    assert (chain.frames, chain.omitted, chain.target) == ((), 2, "asyncio.sleep")
    assert chain.blame is not None and chain.blame.qualname == "sleeps"


@asyncio_only
def test_a_chain_as_deep_as_python_lets_it_be_is_walked_without_recursion(new_loop: NewLoop) -> None:
    """T23."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        chain = run_on(new_loop, seen(lambda scene: dive(5_000, scene)))
    finally:
        sys.setrecursionlimit(limit)
    assert len(chain.frames) == DEPTH
    assert chain.omitted < 5_000


def test_a_chain_that_leads_back_to_itself_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """T23. Python refuses to await what is awaited already, so the way on is bent here."""

    async def waits() -> None: ...

    coroutine = waits()
    monkeypatch.setattr(chain_module, "_next", lambda item: item)
    links = follow(coroutine)
    coroutine.close()
    assert links == [coroutine]


def test_a_finished_coroutine_has_an_empty_chain() -> None:
    async def over() -> None: ...

    coroutine = over()
    coroutine.close()
    assert walk(coroutine, DEPTH).frames == ()


def test_a_stack_names_file_line_and_function_and_no_source(new_loop: NewLoop) -> None:
    text = stacktrace(run_on(new_loop, seen(custom)).frames, omitted=3)
    lines = text.splitlines()
    assert lines[0] == "  [3 more]"
    assert lines[-1] == f'  File "{__file__}", line {LINES["leaf"]}, in leaf'
    assert "await" not in text.replace("__await__", "")


def test_nothing_of_the_program_is_kept_by_a_chain(new_loop: NewLoop) -> None:
    """T10."""
    allowed = (int, str, type(None), bool, types.CodeType)
    chain = run_on(new_loop, seen(gathers))

    def leaves(item: Any) -> list[Any]:
        return [leaf for part in item for leaf in leaves(part)] if isinstance(item, tuple) else [item]

    assert [leaf for leaf in leaves(chain) if not isinstance(leaf, allowed)] == []


def test_a_chain_that_leads_round_in_a_circle_is_followed_once() -> None:
    class FutureIter:
        __slots__ = ("held",)
        held: Any

    first, second = FutureIter(), FutureIter()
    first.held, second.held = second, first
    assert follow(first) == [first, second]


async def goes_down(scene: Scene, depth: int) -> None:
    if depth:
        await goes_down(scene, depth - 1)
    else:
        await scene.never


def test_a_deep_chain_is_followed_to_its_end(new_loop: NewLoop) -> None:
    chain = run_on(new_loop, seen(lambda scene: goes_down(scene, 200)))
    assert (len(chain.frames), chain.omitted) == (DEPTH, 201 - DEPTH)
    assert len({frame.line for frame in chain.frames}) == 2


def test_what_is_known_of_a_line_may_be_forgotten(new_loop: NewLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    before = run_on(new_loop, seen(never))
    monkeypatch.setattr(chain_module, "_MOST_FRAMES", 0)
    assert run_on(new_loop, seen(never)) == before


def test_code_that_is_made_anew_has_lines_of_its_own(new_loop: NewLoop) -> None:
    """An id may be used again: then nothing known of it may have outlived the code."""
    for line in range(50):
        scope: dict[str, Any] = {}
        exec("\n" * line + "async def made(scene):\n    await scene.never", scope)  # noqa: S102
        chain = run_on(new_loop, seen(scope["made"]))
        assert chain.frames[-1].line == line + 2


async def waits_on_one_of_two_lines(scene: Scene, *, first: bool) -> None:
    if first:
        await scene.never
    else:
        await scene.never


def test_two_lines_of_a_function_are_told_apart(new_loop: NewLoop) -> None:
    lines = [
        run_on(new_loop, seen(lambda scene, first=first: waits_on_one_of_two_lines(scene, first=first))).frames[-1].line
        for first in (True, False, True)
    ]
    assert [line - lines[0] for line in lines] == [0, 2, 0]
