"""The real command in a process of its own, as a user starts it, and the bare interpreter to compare it with."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

COMMAND = (sys.executable, "-m", "otel_asyncio")
TIMEOUT = 60.0
REPORT = "otel-asyncio: "


@dataclass(frozen=True)
class Ended:
    """How a process ended, and what it had said."""

    status: int
    out: str
    err: str

    @property
    def own_words(self) -> str:
        """What stands on standard error after the program's own words: the report."""
        return self.err

    @property
    def file(self) -> Path:
        """The file of spans that the command names."""
        found = re.search(r"^otel-asyncio: (?:spans: |.* are in )(/.*\.jsonl)\s*$", self.err, re.MULTILINE)
        assert found is not None, self.err
        return Path(found[1])


def clean_environment(**more: str) -> dict[str, str]:
    """Without the variables of whoever runs the tests."""
    dropped = ("OTEL_", "COLUMNS", "PYTHONUNBUFFERED", "FORCE_COLOR", "NO_COLOR", "COVERAGE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return {**kept, "PYTHONIOENCODING": "utf-8", **more}


def start(
    command: Sequence[str | Path], folder: Path, environment: Mapping[str, str] | None = None, **popen: object
) -> subprocess.Popen[str]:
    variables = clean_environment(TMPDIR=str(folder), **(environment or {}))
    streams: dict[str, object] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*map(str, command)], cwd=folder, env=variables, text=True, **{**streams, **popen})  # type: ignore[call-overload,no-any-return]


def finish(process: subprocess.Popen[str], given: str | None = "") -> Ended:
    try:
        out, err = process.communicate(given, timeout=TIMEOUT)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    return Ended(process.returncode, out or "", err or "")


def run(*command: str | Path, folder: Path, given: str = "", **environment: str) -> Ended:
    return finish(start(command, folder, environment), given)


def interrupted(*command: str | Path, folder: Path, number: signal.Signals, **environment: str) -> Ended:
    """The program says `ready`, and then gets the signal."""
    process = start(command, folder, environment)
    assert process.stdout is not None
    said = process.stdout.readline()
    assert said == "ready\n", (said, finish(process).err)
    process.send_signal(number)
    ended = finish(process)
    return Ended(ended.status, said + ended.out, ended.err)


def in_terminal(*command: str | Path, folder: Path, **environment: str) -> tuple[int, str]:
    """On a terminal of 100 columns: the exit status and all that is to be seen."""
    variables = {"TERM": "xterm-256color", "COLUMNS": "100", **environment}
    terminal, other_end = pty.openpty()  # no pty.fork: some earlier test may have left a thread
    streams = {"stdin": other_end, "stdout": other_end, "stderr": other_end}
    process = start(command, folder, variables, start_new_session=True, **streams)
    os.close(other_end)
    seen, deadline = b"", time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            block = os.read(terminal, 65536)
        except OSError:  # the terminal's other end is closed
            break
        if not block:
            break
        seen += block
    os.close(terminal)
    return process.wait(TIMEOUT), seen.decode(errors="replace")
