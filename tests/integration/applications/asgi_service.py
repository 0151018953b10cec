"""A Starlette service, for uvicorn: a timeout, a request whose task is cancelled, and one that holds the loop."""

import asyncio
import time

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route


async def ask_bank():
    await asyncio.sleep(5)  # SLOW


async def pay(request):
    async with asyncio.timeout(0.2):  # EXPIRES
        await ask_bank()


async def think():
    await asyncio.sleep(5)  # HIT


async def watcher(task):
    await asyncio.sleep(0.2)
    task.cancel()  # CANCELS


async def give_up(request):
    task = asyncio.create_task(think())
    await asyncio.gather(task, watcher(task), return_exceptions=True)
    return PlainTextResponse("found")


async def draw(request):
    time.sleep(0.25)  # BLOCKS
    return PlainTextResponse("found")


app = Starlette(routes=[Route("/pay", pay), Route("/give-up", give_up), Route("/draw", draw)])
