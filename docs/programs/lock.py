import asyncio

till = asyncio.Lock()


async def customer() -> None:
    async with till:
        await asyncio.sleep(0.15)


async def main() -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(customer())


asyncio.run(main())
