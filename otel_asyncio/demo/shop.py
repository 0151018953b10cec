"""A shop with a slow bank, one till, a page that is drawn on the loop, and customers who leave: about three seconds.

Plain asyncio streams, one line a request. What is wrong with it is marked: WRONG.
"""

import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable

from opentelemetry import trace

SECONDS = 2.5
CUSTOMERS = 6

tracer = trace.get_tracer("shop")
till = asyncio.Lock()


async def ask_bank(amount: int) -> str:
    """A dependency that answers late, now and then."""
    await asyncio.sleep(0.6 if amount % 5 == 0 else 0.02)
    return "paid"


async def load_basket() -> list[str]:
    await asyncio.sleep(0.01)
    return ["apples", "pears"]


async def load_user() -> str:
    await asyncio.sleep(0.015)
    return "Ada"


async def print_receipt() -> None:
    async with till:
        await asyncio.sleep(0.12)  # WRONG: everybody who pays waits here for the one who prints


def draw_page(user: str, basket: list[str]) -> str:
    time.sleep(0.15)  # WRONG: nothing else runs meanwhile, in none of the requests
    return f"{user}: {', '.join(basket)}"


async def checkout(amount: int) -> str:
    async with asyncio.TaskGroup() as group:
        user, basket = group.create_task(load_user()), group.create_task(load_basket())
    if amount % 7 == 0:
        return draw_page(user.result(), basket.result())
    await asyncio.create_task(print_receipt())
    return "printed"


async def pay(amount: int) -> str:
    try:
        async with asyncio.timeout(0.25):  # WRONG: the bank may take longer, and nobody expects it
            return await ask_bank(amount)
    except TimeoutError:
        raise ConnectionError("the bank did not answer") from None


async def search(amount: int) -> str:
    """Ask two shelves and take the faster one's answer."""
    shelves = [asyncio.create_task(look_through_shelf(seconds)) for seconds in (0.02, 0.4 + amount / 100)]
    done, slower = await asyncio.wait(shelves, return_when=asyncio.FIRST_COMPLETED)
    for task in slower:
        task.cancel()
    return done.pop().result()


async def look_through_shelf(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "found"


async def wait_for_news(amount: int) -> str:
    """A long poll: there is never any news, and the customer hangs up."""
    await asyncio.sleep(30 + amount)
    return "news"


REQUESTS: dict[str, Callable[[int], Awaitable[str]]] = {
    "checkout": checkout,
    "pay": pay,
    "search": search,
    "news": wait_for_news,
}


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One request. A customer who hangs up has the request cancelled."""
    what, _, amount = (await reader.readline()).decode().strip().partition(" ")
    with tracer.start_as_current_span(f"GET /{what}", kind=trace.SpanKind.SERVER):
        handler = asyncio.create_task(handle(what, int(amount)))
        hung_up = asyncio.create_task(reader.read())
        await asyncio.wait([handler, hung_up], return_when=asyncio.FIRST_COMPLETED)
        if hung_up.done():
            handler.cancel()
        try:
            writer.write(f"{await handler}\n".encode())
        except (asyncio.CancelledError, ConnectionError):
            writer.write(b"sorry\n")
        finally:
            hung_up.cancel()
    writer.close()


async def handle(what: str, amount: int) -> str:
    return await REQUESTS[what](amount)


async def customer(port: int, number: int, until: float) -> int:
    """One after the other, as a browser does; news is not waited for for long."""
    requests = 0
    chance = random.Random(number)
    while time.monotonic() < until:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        what = chance.choice([*REQUESTS, "checkout", "checkout"])
        writer.write(f"{what} {requests + number}\n".encode())
        if what == "news":
            await asyncio.sleep(0.2)
        else:
            await reader.readline()
        writer.close()
        requests += 1
    return requests


async def main() -> None:
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port, until = server.sockets[0].getsockname()[1], time.monotonic() + SECONDS
        counts = await asyncio.gather(*(customer(port, number, until) for number in range(CUSTOMERS)))
    print(f"the shop served {sum(counts)} requests in {SECONDS} s", file=sys.stderr)


if __name__ == "__main__":
    if "--uvloop" in sys.argv:
        import uvloop

        uvloop.run(main())
    else:
        asyncio.run(main())
