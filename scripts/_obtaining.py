"""What getting a program takes, however it is got: one at a time, a command that fails with its reason."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

TIMEOUT_SECONDS = 1800


class Unavailable(Exception):
    """This cannot be had on this machine; says why, on one line."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def say_aside(text: str) -> None:
    """On standard error: standard output is for whoever asked where things are."""
    print(text, file=sys.stderr, flush=True)


def run(command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
    """Run it to its end; its output is for people."""
    say_aside(" ".join(command))
    try:
        subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            timeout=TIMEOUT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(str(error).replace("\n", " ")) from error
