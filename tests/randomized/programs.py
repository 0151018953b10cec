"""Programs as data: a small language of what asyncio programs do, and its interpreter.

The representation of a program is the code that builds it, so a failing example can be pasted into a test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from randomized.facts import Facts
from randomized.world import World, describe

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
        caught: tuple[type[BaseException], ...] = (BaseException,) if self.everything else (Exception,)
        try:
            await run(self.block, me)
        except caught as error:
            return describe(error)
        finally:
            me.log("finally")
