"""A process for each flavour of the hot path: which one runs is decided when the package is first imported."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager

FLAVOURS = ("python", "compiled")


@contextmanager
def processes() -> Iterator[dict[str, Executor]]:
    """One of each, and one for the bare program, kept alive: what is submitted to it runs in its flavour.

    The bare one is not this process, which has threads by now: they might still wake a loop that waits for nothing.
    """
    spawning = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(ProcessPoolExecutor(1, spawning, initializer=_begin, initargs=(name,)))
            for name in ("bare", *FLAVOURS)
        }


def _begin(name: str) -> None:
    """Before anything has imported the package; without the cyclic collector, as in the tests."""
    os.environ["OTEL_ASYNCIO_COMPILED"] = "1" if name == "compiled" else "0"
    logging.getLogger("otel_asyncio").addHandler(logging.NullHandler())
    gc.disable()
    from otel_asyncio.observe import handlers

    # Who caught a cancellation is asked so many times a second of the machine's, and which of them is no fact of the program.
    handlers._PER_SECOND = sys.maxsize


def running() -> tuple[str, str]:
    """In such a process: its flavour, and why it is not the compiled one."""
    from otel_asyncio.observe import flavour

    return flavour.FLAVOUR, flavour.reason
