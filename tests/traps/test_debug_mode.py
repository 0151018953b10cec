"""T30: what asyncio's debug mode says is word for word what it says without tracing."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from harness import TracedRun, both_ways, without_numbers

pytestmark = both_ways


def essence(message: str) -> str:
    """A message without the frames below the one that made the object: there the hook in Python shows."""
    head, marker, frames = message.partition("Object created at")
    made = [line for line in frames.splitlines() if line.lstrip().startswith("File")]
    return without_numbers("\n".join([head, marker, *made[-1:]]))


def said_by(call: Callable[[], Any], caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    call()
    messages = [record.getMessage() for record in caplog.records if record.name == "asyncio"]
    return sorted({essence(message) for message in messages if not is_of_the_machine(message)})


def is_of_the_machine(message: str) -> bool:
    """Whether a step took long that has no reason to: on a crowded machine any step may."""
    return message.startswith("Executing ") and re.match(r"Executing <Task \w+ name='slow'", message) is None


async def blocks() -> None:
    async def slow() -> None:
        time.sleep(0.2)  # noqa: ASYNC251 - blocking is what is looked at
        await asyncio.sleep(0)
        time.sleep(0.2)  # noqa: ASYNC251

    asyncio.get_running_loop().slow_callback_duration = 0.1
    await asyncio.create_task(slow(), name="slow")


async def never_retrieved() -> None:
    asyncio.get_running_loop().slow_callback_duration = 60  # nothing here is slow, but the machine may be

    async def fail() -> None:
        raise LookupError("nobody asks")

    task = asyncio.create_task(fail(), name="fails")
    await asyncio.wait([task])
    del task


async def created_lines() -> list[list[str]]:
    """The last of the lines that debug mode keeps of where a task and a callback were made."""
    loop = asyncio.get_running_loop()
    task: Any = asyncio.create_task(asyncio.sleep(0))
    handle: Any = loop.call_soon(int)
    stacks = [task._source_traceback, handle._source_traceback]
    await task
    return [[f"{frame.name} {frame.line}" for frame in stack[-1:]] for stack in stacks]


@pytest.mark.parametrize("program", [blocks, never_retrieved], ids=lambda program: program.__name__)
def test_the_log_is_unchanged(
    run: Callable[..., Any], traced_run: TracedRun, caplog: pytest.LogCaptureFixture, program: Any
) -> None:
    """T30: "Executing <Task ...> took", "exception was never retrieved", "created at"."""
    caplog.set_level(logging.DEBUG, "asyncio")
    bare = said_by(lambda: run(program(), debug=True), caplog)
    assert said_by(lambda: traced_run(program(), debug=True), caplog) == bare
    assert any("created at" in line for line in bare)


def test_where_a_task_and_a_callback_were_made_is_unchanged(same_as_bare: Callable[..., Any]) -> None:
    """T30."""
    same_as_bare(created_lines, debug=True)


def test_a_step_that_holds_the_loop_is_reported_with_its_task(
    traced_run: TracedRun, caplog: pytest.LogCaptureFixture
) -> None:
    """T30: by name, not as a function of ours."""
    said = said_by(lambda: traced_run(blocks(), debug=True), caplog)
    assert any("Executing" in line and "name='slow'" in line for line in said)
