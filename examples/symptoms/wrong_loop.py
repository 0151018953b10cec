"""Row 16: one thread's future awaited in another's loop. The trace has the line that tried, and who runs the loop."""

import asyncio
import threading
from typing import Self

from _show import show


async def answer() -> int:
    await asyncio.sleep(0.01)
    return 42


class Worker:
    """A loop in a thread of its own."""

    def __enter__(self) -> Self:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="worker")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


async def wrong() -> None:
    with Worker() as worker:
        future = worker.loop.create_future()
        print(await future)


async def right() -> None:
    with Worker() as worker:
        future = asyncio.run_coroutine_threadsafe(answer(), worker.loop)
        print(await asyncio.wrap_future(future))


if __name__ == "__main__":
    show(wrong, right)
