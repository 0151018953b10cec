"""Row 7: TimeoutError, and nobody knows which timeout fired, and what it was waiting on."""

import asyncio

from _show import show


async def query(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "rows"


async def load(seconds: float) -> str:
    async with asyncio.timeout(5), asyncio.timeout(0.2):
        return await query(seconds)


async def wrong() -> None:
    try:
        await asyncio.create_task(load(10))
    except TimeoutError:
        print("504")


async def right() -> None:
    await asyncio.create_task(load(0.01))


if __name__ == "__main__":
    show(wrong, right)
