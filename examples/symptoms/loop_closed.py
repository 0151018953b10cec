"""Row 2: «Event loop is closed». The trace has who used it, where it was closed, and how long ago."""

import asyncio

from _show import show


async def write() -> None:
    await asyncio.sleep(0.01)


def write_in_a_loop_of_its_own() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.run_until_complete(write())
    loop.close()
    return loop


async def wrong() -> None:
    loop = await asyncio.to_thread(write_in_a_loop_of_its_own)
    await asyncio.sleep(0.05)
    asyncio.run_coroutine_threadsafe(write(), loop)


async def right() -> None:
    await asyncio.create_task(write())


if __name__ == "__main__":
    show(wrong, right)
