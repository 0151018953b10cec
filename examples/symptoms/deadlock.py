"""Row 14: a deadlock of two locks. The cycle, each lock, its holder, who waits for it and on which line."""

import asyncio

from _show import show


class Bank:
    def __init__(self) -> None:
        self.accounts, self.audit = asyncio.Lock(), asyncio.Lock()

    async def transfer(self) -> None:
        async with self.accounts:
            await asyncio.sleep(0.01)
            async with self.audit:
                pass

    async def report(self) -> None:
        async with self.audit:
            await asyncio.sleep(0.01)
            async with self.accounts:
                pass

    async def report_in_order(self) -> None:
        async with self.accounts, self.audit:
            await asyncio.sleep(0.01)


async def wrong() -> None:
    bank = Bank()
    tasks = [asyncio.create_task(bank.transfer()), asyncio.create_task(bank.report())]
    await asyncio.wait(tasks, timeout=1.5)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def right() -> None:
    bank = Bank()
    await asyncio.gather(bank.transfer(), bank.report_in_order())


if __name__ == "__main__":
    show(wrong, right, stuck_after=0.3)
