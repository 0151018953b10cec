"""Jobs side by side, for our tests wait most of their time. What a stage prints comes in one piece, when it ended."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock, current_thread, main_thread
from typing import IO

Job = Callable[[], None]
_ours: ContextVar[IO[str] | None] = ContextVar("where what this lane prints is gathered", default=None)
_printing = Lock()


def run_jobs(jobs: Sequence[Job], lanes: int) -> None:
    """Run each once, the first ones first, so many at a time; an error in one is raised after all have ended."""
    if min(lanes, len(jobs)) <= 1:
        for job in jobs:
            job()
        return
    with ThreadPoolExecutor(max_workers=lanes) as pool:
        for done in [pool.submit(job) for job in jobs]:
            done.result()


def gathering() -> IO[str] | None:
    """The file that takes the output of this lane's commands; None: the terminal itself."""
    return _ours.get()


def say(text: str) -> None:
    """Print at once, so that our lines stand before the output of the command they announce."""
    with _printing:
        print(text, file=_ours.get(), flush=True)


@contextmanager
def gathered(title: str) -> Iterator[None]:
    """Keep what is printed until the end, then print it in one piece. With one lane there is nothing to tell apart."""
    if current_thread() is main_thread():
        say(f"\n{title}")
        yield
        return
    say(f"{title} …")
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as file:
        token = _ours.set(file)
        try:
            yield
        finally:
            _ours.reset(token)
            file.seek(0)
            say(f"\n{title}\n{file.read().rstrip()}")
