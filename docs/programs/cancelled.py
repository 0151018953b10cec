import asyncio


async def download() -> None:
    await asyncio.sleep(5)


async def janitor(task: asyncio.Task[None]) -> None:
    await asyncio.sleep(0.2)
    task.cancel()


async def main() -> None:
    task = asyncio.create_task(download())
    await asyncio.create_task(janitor(task))
    try:
        await task
    except asyncio.CancelledError:
        print("who did that?")


asyncio.run(main())
