"""Tasks that wait for each other in a circle, through awaits and through locks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.chain import chain_of, follow
from otel_asyncio.observe.code import describe
from otel_asyncio.observe.deadlines import context_of
from otel_asyncio.observe.records import TaskRecord
from otel_asyncio.observe.stuck import Member

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_asyncio.observe.resources import Hold


def find_cycle(start: Any, next_of: Callable[[Any], list[Any]], explored: set[int]) -> list[Any]:
    """The tasks of a circle that `start` leads into, each followed by one that it waits for; empty: there is none.

    `explored`: the ids of tasks that lead into none that is not known; grows. A loop: chains of tasks are long.
    """
    path, ways = [start], [iter(next_of(start))]
    on_path = {id(start): 0}
    while path:
        step = next(ways[-1], None)
        if step is None:
            done = path.pop()
            ways.pop()
            del on_path[id(done)]
            explored.add(id(done))
        elif id(step) in on_path:
            explored |= on_path.keys()
            return path[on_path[id(step)] :]
        elif id(step) not in explored:
            on_path[id(step)] = len(path)
            path.append(step)
            ways.append(iter(next_of(step)))
    return []


def members_of(
    cycle: list[Any],
    hold_of: Callable[[list[Any]], tuple[Hold | None, Any]],
    parent_of: Callable[[TaskRecord, Any], Any],
    depth: int,
) -> list[Member]:
    """What is known of each task of a circle, and of what it waits for."""
    members = []
    for task in cycle:
        record = getattr(task, "_otel_asyncio", None)
        known = record if type(record) is TaskRecord else None
        links = follow(task)
        hold, lock = hold_of(links)
        members.append(
            Member(
                record=known,
                qualname=describe(task.get_coro())[1],
                since=None if known is None else known.suspended,
                chain=chain_of(links, depth),
                resource=None if lock is None else type(lock).__name__,
                hold=hold,
                parent=None if known is None else parent_of(known, context_of(task)),
            )
        )
    return members
