"""Row 21: one task of a group fails, its siblings are cancelled. Each says so, with a link to the one that failed."""

import asyncio

from _show import show


async def load(name: str) -> str:
    await asyncio.sleep(5)
    return name


async def fail() -> None:
    await asyncio.sleep(0.01)
    raise ConnectionError("refused")


async def wrong() -> None:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(load("user"))
            group.create_task(load("basket"))
            group.create_task(fail())
    except* ConnectionError:
        print("502")


async def right() -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(asyncio.sleep(0.01))


if __name__ == "__main__":
    show(wrong, right)
