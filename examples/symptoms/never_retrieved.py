"""Row 10: «Task exception was never retrieved». The trace has the exception, and the line that created the task."""

import asyncio
import gc

from _show import show


async def save() -> None:
    raise ValueError("disk full")


async def wrong() -> None:
    asyncio.create_task(save())
    await asyncio.sleep(0.01)
    gc.collect()


async def right() -> None:
    task = asyncio.create_task(save())
    try:
        await task
    except ValueError as error:
        print(f"not saved: {error}")


if __name__ == "__main__":
    show(wrong, right)
