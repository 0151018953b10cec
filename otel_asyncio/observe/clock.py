"""Where time comes from: monotonic inside, anchored to the wall clock at each task's creation."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """Two readings in integer nanoseconds.

    A task's start is a wall-clock reading, so that it lines up with the spans of the user, which the SDK stamps with
    `time.time_ns`. Everything that follows is measured on the monotonic clock and added to that start: a wall clock
    that is set back never yields a span that ends before it began, and no offset can drift over the process's life.
    """

    monotonic_ns: Callable[[], int] = time.perf_counter_ns
    wall_ns: Callable[[], int] = time.time_ns


SYSTEM_CLOCK = Clock()
