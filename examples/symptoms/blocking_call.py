"""Row 9: a blocking call freezes the application. The `block` span names the line, and the tasks that had to wait."""

import asyncio
import time

from _show import show


def load_report() -> str:
    time.sleep(0.5)  # requests.get, open().read(), a driver that blocks
    return "report"


async def other_request() -> None:
    for _ in range(3):
        await asyncio.sleep(0.01)


async def wrong() -> None:
    other = asyncio.create_task(other_request())
    await asyncio.sleep(0.005)
    load_report()
    await other


async def right() -> None:
    other = asyncio.create_task(other_request())
    await asyncio.to_thread(load_report)
    await other


if __name__ == "__main__":
    show(wrong, right)
