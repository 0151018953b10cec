"""Row 8: a timeout leaks what it was opening. The `timeout` span says where it struck: between open and close."""

import asyncio

from _show import show

opened: list[str] = []


async def connect() -> str:
    opened.append("connection")
    await asyncio.sleep(10)  # the handshake
    return "connection"


async def close() -> None:
    await asyncio.sleep(0.15)
    opened.clear()


async def wrong() -> None:
    try:
        async with asyncio.timeout(0.1):
            await connect()
    except TimeoutError:
        raise RuntimeError(f"leaked: {opened}") from None


async def right() -> None:
    try:
        async with asyncio.timeout(0.1):
            await connect()
    except TimeoutError:
        await close()


if __name__ == "__main__":
    show(wrong, right)
