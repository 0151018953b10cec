"""Row 1: «asyncio.run() cannot be called from a running event loop». The trace has who tried, and who runs the loop."""

import asyncio

from _show import show


async def price(article: str) -> float:
    await asyncio.sleep(0.01)
    return 12.5


def total(articles: list[str]) -> float:
    """Somebody's synchronous helper, which works as long as nobody calls it from a coroutine."""
    return sum(asyncio.run(each) for each in map(price, articles))


async def wrong() -> None:
    print(total(["tea", "milk"]))


async def right() -> None:
    print(sum(await asyncio.gather(price("tea"), price("milk"))))


if __name__ == "__main__":
    show(wrong, right)
