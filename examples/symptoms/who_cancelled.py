"""Row 6: CancelledError, and nobody knows who cancelled the task. The trace names the canceller's task and line."""

import asyncio

from _show import show


async def fetch() -> str:
    await asyncio.sleep(10)
    return "done"


async def janitor(tasks: list[asyncio.Task[str]]) -> None:
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()


async def wrong() -> None:
    task = asyncio.create_task(fetch())
    sweeping = asyncio.create_task(janitor([task]))
    await asyncio.wait([task, sweeping])


async def right() -> None:
    task = asyncio.create_task(asyncio.sleep(0.01, "done"))
    sweeping = asyncio.create_task(janitor([]))
    await asyncio.gather(task, sweeping)


if __name__ == "__main__":
    show(wrong, right)
