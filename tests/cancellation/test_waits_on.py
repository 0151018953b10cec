"""A task that swallows its cancellation and waits for ever: told while it waits, not only when it ends."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import pytest
from harness import NewLoop, Spans, attributes, instrumented, run_on

from cancellation.ways import line_of

OFTEN = 0.1  # the setting that says how often is looked


async def swallows() -> None:
    try:
        await asyncio.get_running_loop().create_future()
    except asyncio.CancelledError:  # swallowed
        pass
    await asyncio.sleep(60)


async def cleans_up() -> None:
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        await asyncio.sleep(0.5)


async def takes_back() -> None:
    try:
        await asyncio.get_running_loop().create_future()
    except asyncio.CancelledError:
        asyncio.current_task().uncancel()
    await asyncio.sleep(0.5)


async def ends_in_a_scope() -> None:
    try:
        async with asyncio.timeout(0.01):
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                await asyncio.sleep(0.5)
    except TimeoutError:
        pass


def suppressed(spans: Spans) -> list[dict[str, Any]]:
    found = [attributes(span) for span in spans.all()]
    return [said for said in found if said.get("asyncio.problem") == "cancel_suppressed"]


async def cancelled(function: Any) -> asyncio.Task[None]:
    task = asyncio.create_task(function())
    await asyncio.sleep(0)
    task.cancel()
    return task


def test_it_is_told_once_while_it_waits(new_loop: NewLoop, spans: Spans) -> None:
    async def main() -> None:
        task = await cancelled(swallows)
        deadline = time.monotonic() + 20
        while not suppressed(spans) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        assert suppressed(spans)
        assert not task.done()
        await asyncio.sleep(3 * OFTEN)  # time for more looks
        task.cancel()
        await asyncio.wait([task])

    with instrumented(spans, stuck_after=OFTEN):
        run_on(new_loop, main())
    (said,) = suppressed(spans)
    assert (said["asyncio.cancel.origin"], said["asyncio.cancel.outcome"]) == ("explicit", "suppressed")
    assert said["asyncio.cancel.by.line"] > 0
    if sys.version_info >= (3, 12):
        assert said["asyncio.cancel.suppressed.line"] == line_of("swallowed", swallows)


@pytest.mark.parametrize("function", [cleans_up, takes_back])
def test_whoever_deals_with_it_for_long_is_not_told(new_loop: NewLoop, spans: Spans, function: Any) -> None:
    async def main() -> None:
        await asyncio.wait([await cancelled(function)])

    with instrumented(spans, stuck_after=OFTEN):
        run_on(new_loop, main())
    assert suppressed(spans) == []


def test_a_cleanup_inside_an_expired_scope_is_not_told(new_loop: NewLoop, spans: Spans) -> None:
    with instrumented(spans, stuck_after=OFTEN):
        run_on(new_loop, ends_in_a_scope())
    assert suppressed(spans) == []
