"""Row 15: more and more tasks, because nothing bounds how many are made. The trace has the line that makes them."""

import asyncio
from collections.abc import AsyncIterator

from _show import show

ARRIVALS = 8_000


async def orders() -> AsyncIterator[int]:
    """Faster than the database takes them."""
    for number in range(ARRIVALS):
        if number % 20 == 0:
            await asyncio.sleep(0.01)
        yield number


async def store(order: int, connection: asyncio.Semaphore) -> None:
    async with connection:
        await asyncio.sleep(0.01)


async def wrong() -> None:
    connection = asyncio.Semaphore(1)
    stored = set()
    async for order in orders():
        task = asyncio.create_task(store(order, connection))
        stored.add(task)
        task.add_done_callback(stored.discard)
    print(f"{len(stored)} orders are still to be stored")


async def right() -> None:
    connection, bound = asyncio.Semaphore(1), asyncio.Semaphore(50)
    made = 0
    async with asyncio.TaskGroup() as group, asyncio.timeout(3) as limit:
        async for order in orders():
            if order >= 200:
                break
            await bound.acquire()
            group.create_task(store(order, connection)).add_done_callback(lambda _: bound.release())
            made += 1
        limit.reschedule(None)
    print(f"all {made} orders are stored")


if __name__ == "__main__":
    show(wrong, right, stuck_after=0.2)
