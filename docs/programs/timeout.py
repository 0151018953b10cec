import asyncio


async def ask_bank() -> str:
    await asyncio.sleep(2)
    return "paid"


async def pay() -> str:
    async with asyncio.timeout(0.2):
        return await ask_bank()


async def main() -> None:
    try:
        print(await pay())
    except TimeoutError:
        print("not paid")


asyncio.run(main())
