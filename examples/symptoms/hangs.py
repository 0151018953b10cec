"""Row 4: the application hangs on an await. The trace says so while it hangs: `stuck`, with the line and the age."""

import asyncio

from _show import show


async def reply() -> None:
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    await answer  # nobody will ever set it


async def wrong() -> None:
    waiting = asyncio.create_task(reply())
    await asyncio.sleep(1.5)  # the service goes on meanwhile
    waiting.cancel()
    await asyncio.wait([waiting])


async def right() -> None:
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.01, answer.set_result, "here")
    async with asyncio.timeout(1):
        await answer


if __name__ == "__main__":
    show(wrong, right, stuck_after=0.3)
