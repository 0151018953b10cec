"""Row 17: `run_coroutine_threadsafe`, and its result waited for in the loop's own thread. `block` names that line."""

import asyncio
import concurrent.futures

from _show import show


async def work() -> str:
    return "done"


async def wrong() -> None:
    future = asyncio.run_coroutine_threadsafe(work(), asyncio.get_running_loop())
    try:
        future.result(timeout=0.5)  # the loop that should run it stands here
    except concurrent.futures.TimeoutError:
        await asyncio.wrap_future(future)


async def right() -> None:
    loop = asyncio.get_running_loop()

    def from_a_thread() -> str:
        return asyncio.run_coroutine_threadsafe(work(), loop).result(timeout=5)

    await asyncio.to_thread(from_a_thread)


if __name__ == "__main__":
    show(wrong, right)
