"""A script that has never heard of OpenTelemetry."""

from __future__ import annotations

import asyncio


async def fetch() -> int:
    await asyncio.sleep(0.01)
    return 1


async def main() -> None:
    first, second = await asyncio.gather(fetch(), fetch())
    print(first + second + await asyncio.create_task(fetch()))


if __name__ == "__main__":
    asyncio.run(main())
