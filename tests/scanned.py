"""A program on virtual time that is scanned for what hangs, as the watchdog's thread does it on real time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from harness import attributes, run_on

from otel_asyncio import AsyncioInstrumentor, Settings
from otel_asyncio.testing import AutojumpLoop, Recorder, record


class Time:
    """The program's way to let time pass, and what was recorded meanwhile."""

    def __init__(self, recorder: Recorder, scan: Any) -> None:
        self._recorder, self._scan = recorder, scan

    async def passes(self, seconds: float, *, pace: float = 1) -> None:
        """Scan every so many seconds."""
        for _ in range(round(seconds / pace)):
            await asyncio.sleep(pace)
            self._scan.scan()
            await asyncio.sleep(0)

    @property
    def spans(self) -> list[Any]:
        """What was recorded so far."""
        return list(self._recorder.spans)

    @property
    def problems(self) -> list[dict[str, Any]]:
        """The attributes of every span that tells a problem."""
        return [told for span in self.spans if "asyncio.problem" in (told := attributes(span))]

    def request(self, coroutine: Any) -> asyncio.Task[Any]:
        """A task inside a span of the program."""
        with self._recorder.tracer_provider.get_tracer("test").start_as_current_span("request"):
            return asyncio.create_task(coroutine)


def scanned(program: Callable[[Time], Awaitable[None]], **settings: Any) -> None:
    """Run a program so."""
    loop = AutojumpLoop()

    async def main() -> None:
        observation: Any = AsyncioInstrumentor().observation
        (scan,) = observation.hanging.scans
        with ThreadPoolExecutor() as pool:
            loop.set_default_executor(pool)
            try:
                await program(Time(recorder, scan))
            finally:  # its threads end by no clock, so nobody waits for them by one
                loop._default_executor = None  # type: ignore[attr-defined]

    with record(settings=Settings(**settings), clock=loop.clock) as recorder:
        run_on(lambda: loop, main())
