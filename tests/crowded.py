"""One core, shared with more work than it can do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from otel_asyncio.observe.runqueue import waited

_SPIN = "print(flush=True)\nwhile True: pass"

where_it_is_counted = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or waited() is None, reason="needs Linux, which counts how long a thread waits"
)


@contextmanager
def crowded(spinners: int = 3) -> Iterator[None]:
    """This thread, and those it starts, on one core together with so many processes that compute without end."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    with ExitStack() as undo:
        undo.callback(os.sched_setaffinity, 0, before)
        for _ in range(spinners):
            spinner = undo.enter_context(subprocess.Popen([sys.executable, "-S", "-c", _SPIN], stdout=subprocess.PIPE))
            undo.callback(spinner.kill)
            assert spinner.stdout is not None
            spinner.stdout.readline()
        yield
