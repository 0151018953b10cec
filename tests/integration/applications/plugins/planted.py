"""A plugin of datasette with a slow answer and one that holds the loop."""

import asyncio
import time

from datasette import Response, hookimpl


async def ask_upstream():
    await asyncio.sleep(0.3)  # SLOW


async def slow(request):
    await ask_upstream()
    return Response.text("found")


async def blocking(request):
    time.sleep(0.25)  # BLOCKS
    return Response.text("found")


@hookimpl
def register_routes():
    return [(r"^/-/slow$", slow), (r"^/-/blocking$", blocking)]
