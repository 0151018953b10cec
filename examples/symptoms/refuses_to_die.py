"""Row 19: shutdown with a task that refuses to die. `asyncio.shutdown` names the slowest, its cancel span why."""

import asyncio

from _show import show

background: set[asyncio.Task[None]] = set()


async def stubborn() -> None:
    try:
        await asyncio.sleep(10)
    except asyncio.CancelledError:
        await asyncio.sleep(0.3)  # its clean-up takes its time
        raise


async def polite() -> None:
    await asyncio.sleep(10)


async def leave_behind(*tasks: asyncio.Task[None]) -> None:
    background.update(tasks)
    await asyncio.sleep(0.01)


async def wrong() -> None:
    await leave_behind(asyncio.create_task(stubborn()), asyncio.create_task(polite()))


async def right() -> None:
    task = asyncio.create_task(polite())
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])


if __name__ == "__main__":
    show(wrong, right)
