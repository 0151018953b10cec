"""Row 3: «coroutine was never awaited». The trace has the line that made the coroutine, and the task that forgot it."""

import asyncio

from _show import show


async def save(order: int) -> None:
    await asyncio.sleep(0.01)


async def write(order: int) -> str:
    return f"letter for order {order}"


async def wrong() -> None:
    for order in range(2):
        save(order)
    letters = [write(order) for order in range(2)]
    print(f"{len(letters)} letters")


async def right() -> None:
    for order in range(2):
        await save(order)
    letters = await asyncio.gather(*[write(order) for order in range(2)])
    print(f"{len(letters)} letters")


if __name__ == "__main__":
    show(wrong, right, origin_tracking=True)
