"""Row 22: who waits for whom. `await Lock.acquire` names the holder, its line, and how long it has held the lock."""

import asyncio

from _show import show


class Cache:
    def __init__(self) -> None:
        self.lock = asyncio.Lock()

    async def refresh(self) -> None:
        async with self.lock:
            await asyncio.sleep(0.4)  # the slow part, under the lock

    async def refresh_outside(self) -> None:
        await asyncio.sleep(0.4)
        async with self.lock:
            pass

    async def look_up(self) -> None:
        await asyncio.sleep(0.01)
        async with self.lock:
            pass


async def wrong() -> None:
    cache = Cache()
    await asyncio.gather(cache.refresh(), cache.look_up())


async def right() -> None:
    cache = Cache()
    await asyncio.gather(cache.refresh_outside(), cache.look_up())


if __name__ == "__main__":
    show(wrong, right)
