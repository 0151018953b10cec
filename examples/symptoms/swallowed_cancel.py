"""Row 5: CancelledError swallowed. The worker goes on after `except`, and the trace names that line."""

import asyncio

from _show import show


async def stubborn() -> None:
    try:
        await asyncio.sleep(10)
    except asyncio.CancelledError:
        pass  # swallowed: whoever cancelled waits in vain
    await asyncio.sleep(0.3)


async def clean() -> None:
    try:
        await asyncio.sleep(10)
    except asyncio.CancelledError:
        print("cleaned up")
        raise


async def cancel_and_wait(task: asyncio.Task[None]) -> None:
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])


async def wrong() -> None:
    await cancel_and_wait(asyncio.create_task(stubborn()))


async def right() -> None:
    await cancel_and_wait(asyncio.create_task(clean()))


if __name__ == "__main__":
    show(wrong, right)
