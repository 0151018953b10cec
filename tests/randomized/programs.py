"""Programs as data: a small language of what asyncio programs do, and its interpreter.

The representation of a program is the code that builds it, so a failing example can be pasted into a test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from randomized.world import Facts, World, describe

MILLISECOND = 1_000_000


class Boom(Exception):
    """What programs raise."""


class Hard(BaseException):
    """What `except Exception` does not catch."""


class OrderedSet(dict[Any, None]):
    """A set that is walked in the order of insertion."""

    def add(self, item: Any) -> None:
        self[item] = None

    def discard(self, item: Any) -> None:
        self.pop(item, None)


class Group(asyncio.TaskGroup):
    """Cancels its tasks in the order of their creation: the stock one's set is ordered by address."""

    def __init__(self) -> None:
        super().__init__()
        self._tasks: Any = OrderedSet()


@dataclass
class Me:
    """The running coroutine: where it runs, who it is, and the tasks it has made."""

    world: World
    facts: Facts
    children: list[asyncio.Task[Any]]

    def log(self, what: str, *details: Any) -> None:
        self.world.log(self.facts.label, what, *details)

    def child(self, block: Block) -> Coroutine[Any, Any, str]:
        """A coroutine that runs this block, not started."""
        return coroutine(self.world, block, self.facts)

    def spawn(self, block: Block, **options: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(self.child(block), **options)
        self.children.append(task)
        self.world.kept.append(task)
        return task


def coroutine(world: World, block: Block, creator: Facts | None = None) -> Coroutine[Any, Any, str]:
    """A coroutine of the program."""
    facts = world.new_facts(creator)
    coro = body(block, Me(world, facts, []))
    return world.register(coro, facts)  # type: ignore[no-any-return]


async def body(block: Block, me: Me) -> str:
    """The only coroutine function of the program."""
    me.log("begins", me.world.variable.get())
    me.world.variable.set(me.facts.label)
    try:
        await run(block, me)
    except BaseException as error:
        me.log("raises", describe(error))
        raise
    me.log("returns")
    return me.facts.label


async def run(block: Block, me: Me) -> None:
    for action in block:
        result = await action.run(me)
        me.log(type(action).__name__, result)


def outcome(task: asyncio.Future[Any]) -> Any:
    """How a future ended."""
    if task.cancelled():
        return "cancelled"
    return describe(task.exception()) or task.result()


class Action:
    async def run(self, me: Me) -> Any:
        raise NotImplementedError


Block = list[Action]


@dataclass
class Sleep(Action):
    ms: int

    async def run(self, me: Me) -> None:
        await asyncio.sleep(self.ms / 1000)


@dataclass
class Spin(Action):
    ms: int

    async def run(self, me: Me) -> None:
        me.world.loop.spin(self.ms / 1000)
        me.facts.spun(self.ms * MILLISECOND, getattr(me.world.loop, "turn", 0))


@dataclass
class Raise(Action):
    kind: type[BaseException]

    async def run(self, me: Me) -> None:
        raise self.kind(me.facts.label)


@dataclass
class Spawn(Action):
    block: Block
    named: bool = False
    shared_context: bool = False

    async def run(self, me: Me) -> Any:
        options: dict[str, Any] = {"name": f"child of {me.facts.label}"} if self.named else {}
        if self.shared_context:
            options["context"] = me.world.shared_context
        return me.world.task_name(me.spawn(self.block, **options))


@dataclass
class SetName(Action):
    async def run(self, me: Me) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.set_name(f"renamed {me.facts.label}")


@dataclass
class Join(Action):
    """Await a child."""

    number: int

    async def run(self, me: Me) -> Any:
        return await me.children[self.number % len(me.children)] if me.children else None


@dataclass
class Cancel(Action):
    """Cancel a child; with `number` None, oneself."""

    number: int | None

    async def run(self, me: Me) -> Any:
        if self.number is None:
            task = asyncio.current_task()
            assert task is not None
            return task.cancel("self")
        return me.children[self.number % len(me.children)].cancel() if me.children else None


@dataclass
class CancelAny(Action):
    """Cancel a task of whoever's, one's own perhaps."""

    number: int

    async def run(self, me: Me) -> Any:
        kept = me.world.kept
        return kept[self.number % len(kept)].cancel("any") if kept else None


@dataclass
class Try(Action):
    """Catch what the block raises; with `everything`, its cancellation too."""

    block: Block
    everything: bool = False

    async def run(self, me: Me) -> Any:
        try:
            await run(self.block, me)
        except BaseException if self.everything else Exception as error:
            return describe(error)
        finally:
            me.log("finally")


@dataclass
class Gather(Action):
    blocks: list[Block]
    return_exceptions: bool = False

    async def run(self, me: Me) -> Any:
        results = await asyncio.gather(*map(me.child, self.blocks), return_exceptions=self.return_exceptions)
        return [describe(item) if isinstance(item, BaseException) else item for item in results]


@dataclass
class InGroup(Action):
    """A task group: the children of the block `inside`, and the blocks of its tasks."""

    blocks: list[Block]
    inside: Block

    async def run(self, me: Me) -> None:
        async with Group() as group:
            for block in self.blocks:
                me.children.append(group.create_task(me.child(block)))
            await run(self.inside, me)


@dataclass
class Timeout(Action):
    ms: int
    block: Block

    async def run(self, me: Me) -> None:
        async with asyncio.timeout(self.ms / 1000):
            await run(self.block, me)


@dataclass
class WaitFor(Action):
    ms: int
    block: Block

    async def run(self, me: Me) -> Any:
        return await asyncio.wait_for(me.child(self.block), self.ms / 1000)


@dataclass
class Shield(Action):
    block: Block

    async def run(self, me: Me) -> Any:
        return await asyncio.shield(me.child(self.block))


@dataclass
class Wait(Action):
    """`asyncio.wait` for the first child that ends."""

    ms: int | None

    async def run(self, me: Me) -> Any:
        if not me.children:
            return None
        timeout = None if self.ms is None else self.ms / 1000
        done, _ = await asyncio.wait(me.children, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        return [outcome(task) for task in me.children if task in done]


@dataclass
class AsCompleted(Action):
    """The blocks as tasks, in the order in which they end; those that are over at once have none."""

    blocks: list[Block]

    async def run(self, me: Me) -> Any:
        tasks = [me.spawn(block) for block in self.blocks]
        return [await first for first in asyncio.as_completed([task for task in tasks if not task.done()])]


@dataclass
class Holding(Action):
    """The block under a lock; with `number` None, the semaphore."""

    number: int | None
    block: Block

    async def run(self, me: Me) -> None:
        async with me.world.semaphore if self.number is None else me.world.locks[self.number]:
            await run(self.block, me)


@dataclass
class Put(Action):
    async def run(self, me: Me) -> None:
        await me.world.queue.put(me.facts.label)


@dataclass
class Get(Action):
    """`Queue.get`; with `ms`, in `wait_for`."""

    ms: int | None = None

    async def run(self, me: Me) -> Any:
        queue = me.world.queue
        return await (queue.get() if self.ms is None else asyncio.wait_for(queue.get(), self.ms / 1000))


@dataclass
class Signal(Action):
    """Set the event; if it is set, clear it."""

    async def run(self, me: Me) -> None:
        event = me.world.event
        (event.clear if event.is_set() else event.set)()


@dataclass
class Await(Action):
    """Wait for the event."""

    async def run(self, me: Me) -> None:
        await me.world.event.wait()


@dataclass
class Callback(Action):
    """Let the loop call something that makes a task: soon, or after `ms`."""

    ms: int | None
    block: Block

    async def run(self, me: Me) -> None:
        loop, world = me.world.loop, me.world

        def call() -> None:
            world.log("callback", "called")
            world.kept.append(loop.create_task(coroutine(world, self.block)))

        if self.ms is None:
            loop.call_soon(call)
        else:
            loop.call_later(self.ms / 1000, call)
