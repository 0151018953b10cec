import asyncio


async def charge(amount: int) -> None:
    await asyncio.sleep(0.01)
    if amount > 100:
        raise ValueError("the card has not so much")


async def main() -> None:
    async with asyncio.TaskGroup() as group:
        for amount in (20, 50, 120):
            group.create_task(charge(amount))


try:
    asyncio.run(main())
except* ValueError as errors:
    print("not charged:", errors.exceptions)
