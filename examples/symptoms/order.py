"""Row 12: coroutines run in an unexpected order. Starts, steps and `start_delay` show the real one."""

import asyncio
import time

from _show import show


async def audit(log: list[str]) -> None:
    log.append("audit")


async def charge(log: list[str]) -> None:
    time.sleep(0.05)
    log.append("charge")


async def wrong() -> None:
    log: list[str] = []
    auditing = asyncio.create_task(audit(log))  # starts only when this task lets go of the loop
    await charge(log)
    await auditing
    assert log == ["charge", "audit"]


async def right() -> None:
    log: list[str] = []
    await audit(log)
    await charge(log)
    assert log == ["audit", "charge"]


if __name__ == "__main__":
    show(wrong, right)
