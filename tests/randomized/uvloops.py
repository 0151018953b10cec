"""A uvloop on virtual time: libuv's own queue and handles, and timers that come due when nothing else is left to do."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from typing import Any

import uvloop

from otel_asyncio.observe.clock import Clock
from otel_asyncio.testing import _SECOND, _VirtualTime
from randomized.world import Scripted


class ScriptedUvloop(Scripted, uvloop.Loop):
    """Counts what is announced to it: libuv does not tell its turns."""

    slow_callback = math.inf  # uvloop measures a callback in real time

    def __init__(self) -> None:
        super().__init__()
        self._virtual = _VirtualTime()
        self._timers: list[tuple[int, int, asyncio.TimerHandle]] = []
        self._numbers = itertools.count()
        self._seen = -1
        self.clock = Clock(monotonic_ns=self._virtual.read, wall_ns=self._virtual.read)

    def time(self) -> float:
        return self._virtual.elapsed / _SECOND

    def spin(self, seconds: float) -> None:
        self._virtual.elapsed += round(seconds * _SECOND)

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
        self.iterations += 1
        return super().call_soon(callback, *args, context=context)

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (round(when * _SECOND), next(self._numbers), timer))
        return timer

    def _timer_handle_cancelled(self, timer: asyncio.TimerHandle) -> None:
        """As asyncio's timers ask of their loop: this one drops them when their time comes."""

    def run_until_complete(self, future: Any) -> Any:
        self._seen, self._beating = -1, super().call_soon(self._beat)
        try:
            return super().run_until_complete(future)
        finally:
            self._beating.cancel()

    def _beat(self) -> None:
        """Comes round in the queue for ever. Where nothing was announced since the last time, it is alone there."""
        if self._seen == self.iterations and not self._pass_time():
            self.stop()  # all tasks wait, and no timer is set: `run_until_complete` says so
        self._seen, self._beating = self.iterations, super().call_soon(self._beat)

    def _pass_time(self) -> bool:
        """Move on to the next timer, if there is one."""
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        if not self._timers:
            return False
        self._virtual.elapsed = max(self._virtual.elapsed, self._timers[0][0])
        while self._timers and self._timers[0][0] <= self._virtual.elapsed:
            super().call_soon(_come_due, heapq.heappop(self._timers)[2])
        return True

    def close(self) -> None:
        self._timers.clear()
        super().close()


def _come_due(timer: Any) -> None:
    if not timer.cancelled():
        timer._run()
