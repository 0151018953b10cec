import asyncio
import time


def draw_page() -> str:
    time.sleep(0.3)
    return "a page"


async def request() -> None:
    await asyncio.sleep(0.05)


async def drawing() -> None:
    await asyncio.sleep(0.01)
    draw_page()


async def main() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(drawing())
        group.create_task(request())


asyncio.run(main())
