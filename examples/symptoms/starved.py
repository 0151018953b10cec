"""Row 23: a starved loop. Nobody blocks for long, but all together do: the victim's time is `scheduled`, not `idle`."""

import asyncio
import time

from _show import show


async def crunch(pause: float) -> None:
    for _ in range(20):
        time.sleep(0.01)
        await asyncio.sleep(pause)


async def victim() -> None:
    for _ in range(5):
        await asyncio.sleep(0.001)


async def run(crunchers: int, pause: float) -> None:
    await asyncio.gather(victim(), *(crunch(pause) for _ in range(crunchers)))


async def wrong() -> None:
    await run(crunchers=5, pause=0)


async def right() -> None:
    await run(crunchers=1, pause=0.02)


if __name__ == "__main__":
    show(wrong, right)
