import asyncio


async def load_user() -> str:
    await asyncio.sleep(0.05)
    return "Ada"


async def load_prices() -> list[int]:
    async def ask_supplier() -> list[int]:
        """It answers late."""
        await asyncio.sleep(0.4)
        return [3, 4]

    return await ask_supplier()


async def main() -> None:
    async with asyncio.TaskGroup() as group:
        user, prices = group.create_task(load_user()), group.create_task(load_prices())
    print(f"{user.result()} pays {sum(prices.result())}")


asyncio.run(main())
