"""Row 11: fire and forget. Nobody holds the task, the collector takes it; the trace says where it was made."""

import asyncio
import gc

from _show import show


async def send_mail() -> None:
    await asyncio.get_running_loop().create_future()  # reachable from nowhere else


async def wrong() -> None:
    asyncio.create_task(send_mail())
    await asyncio.sleep(0)
    gc.collect()
    await asyncio.sleep(0)


async def right() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(0.01))


if __name__ == "__main__":
    show(wrong, right)
