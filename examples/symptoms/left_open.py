"""Row 18: an async generator not closed. The trace has the loop that left it open, and for how long it had been."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

from _show import show


async def rows() -> AsyncIterator[int]:
    print("connection taken")
    try:
        for number in range(100):
            await asyncio.sleep(0.01)
            yield number
    finally:
        print("connection given back")


async def wrong() -> None:
    async for number in rows():
        if number == 3:
            break
    print("done")


async def right() -> None:
    async with aclosing(rows()) as numbers:
        async for number in numbers:
            if number == 3:
                break
    print("done")


if __name__ == "__main__":
    show(wrong, right)
