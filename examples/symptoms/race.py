"""Row 13: a race on shared state. Two tasks overlap around the await between read and write; with a lock not."""

import asyncio

from _show import show


class Account:
    balance = 0

    def __init__(self) -> None:
        self.lock = asyncio.Lock()

    async def deposit(self, amount: int) -> None:
        balance = self.balance
        await asyncio.sleep(0.12)
        self.balance = balance + amount

    async def deposit_alone(self, amount: int) -> None:
        async with self.lock:
            await self.deposit(amount)


async def wrong() -> None:
    account = Account()
    await asyncio.gather(account.deposit(1), account.deposit(1))
    assert account.balance == 1


async def right() -> None:
    account = Account()
    await asyncio.gather(account.deposit_alone(1), account.deposit_alone(1))
    assert account.balance == 2


if __name__ == "__main__":
    show(wrong, right)
