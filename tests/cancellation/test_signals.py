"""What a signal ends, and that its handlers are what they were."""

from __future__ import annotations

import asyncio
import functools
import signal
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from harness import Spans, TracedRun, attributes, both_ways, without_numbers

from cancellation.ways import victim


@both_ways
def test_what_a_signal_handler_cancels_in_turn_is_the_signals(traced_run: TracedRun, spans: Spans) -> None:
    async def main() -> None:
        everything = asyncio.gather(victim(), victim())
        await asyncio.sleep(0)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, everything.cancel)
        signal.raise_signal(signal.SIGUSR2)
        await asyncio.wait([everything])

    traced_run(main())
    told = [attributes(span) for span in spans.all() if span.name.startswith("cancel ")]
    assert [(said["asyncio.cancel.origin"], said["asyncio.cancel.via"]) for said in told] == [("signal", "gather")] * 2


async def raises() -> Any:
    """What the loop says of a handler that fails, with its traceback."""

    def handler(number: int) -> None:
        raise LookupError(number)

    def note(_: Any, context: dict[str, Any]) -> None:
        frames = traceback.extract_tb(context["exception"].__traceback__)
        handle = without_numbers(repr(context["handle"]))
        said.set_result((without_numbers(context["message"]), handle, [frame.name for frame in frames]))

    loop = asyncio.get_running_loop()
    said = loop.create_future()
    loop.set_exception_handler(note)
    loop.add_signal_handler(signal.SIGUSR2, handler, 1)
    signal.raise_signal(signal.SIGUSR2)
    return await said


async def is_a_partial() -> Any:
    loop = asyncio.get_running_loop()
    said = loop.create_future()
    loop.add_signal_handler(signal.SIGUSR2, functools.partial(said.set_result, 1))
    signal.raise_signal(signal.SIGUSR2)
    return await said, loop.remove_signal_handler(signal.SIGUSR2), loop.remove_signal_handler(signal.SIGUSR2)


async def refused() -> list[str]:
    """What a loop takes no handler from."""

    async def coroutine_function() -> None: ...

    loop, said = asyncio.get_running_loop(), []
    wrong: list[Any] = [
        (signal.SIGUSR2, coroutine_function), (signal.SIGKILL, print), (1_000, print), ("SIGUSR2", print)
    ]  # fmt: skip
    for number, handler in wrong:
        try:
            loop.add_signal_handler(number, handler)
        except Exception as error:
            frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
            said.append(f"{error!r} {frames}")
    return said


@pytest.mark.parametrize("program", [raises, is_a_partial, refused], ids=lambda program: program.__name__)
@both_ways
def test_a_handler_does_the_same(same_as_bare: Callable[..., Any], program: Any) -> None:
    same_as_bare(program)
