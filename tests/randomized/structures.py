"""The actions that run several blocks, or bound, shield and lock one: the other half of the language."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from randomized.programs import Action, Block, Group, Me, coroutine, outcome, run
from randomized.world import describe


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
