"""A shop with a slow bank, one till, a page that is drawn on the loop, and a janitor: about three seconds.

Plain asyncio streams, one line a request. What is wrong with it is marked: WRONG.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable

from opentelemetry import trace

SECONDS = 2.5
CUSTOMERS = 6

tracer = trace.get_tracer("shop")
till = asyncio.Lock()
open_requests: dict[asyncio.Task[str], float] = {}


async def ask_bank(amount: int) -> str:
    """A dependency that answers late, now and then."""
    await asyncio.sleep(0.6 if amount % 4 == 1 else 0.02)
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
    time.sleep(0.25)  # WRONG: nothing else runs meanwhile, in none of the requests
    return f"{user}: {', '.join(basket)}"


async def checkout(amount: int) -> str:
    async with asyncio.TaskGroup() as group:
        user, basket = group.create_task(load_user()), group.create_task(load_basket())
    if amount % 5 == 0:
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
    """A long poll, and there is never any news."""
    await asyncio.sleep(30 + amount)
    return "news"


async def janitor() -> None:
    """Ends what is open for too long, whoever it belongs to."""
    while True:
        await asyncio.sleep(0.05)
        for task, since in open_requests.items():
            if time.monotonic() - since > 0.9:
                task.cancel()  # WRONG: nobody told the request, nor the customer


REQUESTS: dict[str, Callable[[int], Awaitable[str]]] = {
    "checkout": checkout,
    "pay": pay,
    "search": search,
    "news": wait_for_news,
}


PLAN = ("checkout", "pay", "checkout", "search", "checkout", "news")


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One request, in a task of its own."""
    what, _, amount = (await reader.readline()).decode().strip().partition(" ")
    with tracer.start_as_current_span(f"GET /{what}", kind=trace.SpanKind.SERVER):
        task = asyncio.create_task(handle(what, int(amount)))
        open_requests[task] = time.monotonic()
        task.add_done_callback(open_requests.pop)
        try:
            writer.write(f"{await task}\n".encode())
        except (asyncio.CancelledError, ConnectionError):
            writer.write(b"sorry\n")
    writer.close()


async def handle(what: str, amount: int) -> str:
    return await REQUESTS[what](amount)


async def customer(port: int, number: int, until: float) -> int:
    """One request after the other, as a browser does."""
    requests = number
    while time.monotonic() < until:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"{PLAN[requests % len(PLAN)]} {requests}\n".encode())
        await reader.readline()
        writer.close()
        requests += 1
    return requests - number


async def main() -> None:
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        sweeping = asyncio.create_task(janitor())
        port, until = server.sockets[0].getsockname()[1], time.monotonic() + SECONDS
        counts = await asyncio.gather(*(customer(port, number, until) for number in range(CUSTOMERS)))
        sweeping.cancel()
    print(f"the shop served {sum(counts)} requests in {SECONDS} s", file=sys.stderr)


if __name__ == "__main__":
    if "--uvloop" in sys.argv:
        import uvloop

        uvloop.run(main())
    else:
        asyncio.run(main())
