"""Where the command writes: a file for spans that is nobody else's, and the standard streams, whatever they take."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

_NO_EXTRA = "needs packages that are not installed: pip install 'otel-asyncio[cli]'"


class UsageError(Exception):
    """The command was called in a way that cannot work; its text says why and what to do."""


class SpanFile:
    """The text stream that the file exporter writes to: each line reaches the file at once, by one system call.

    Lines of processes that share the file do not mix: it is open for appending. `append`: another process made it.
    """

    closed = False

    def __init__(self, path: Path, *, force: bool = False, append: bool = False) -> None:
        how = 0 if append else os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL)
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | how, 0o600)
            os.fchmod(self._descriptor, 0o600)
        except FileExistsError:
            raise UsageError(f"{path} exists: choose another name, or overwrite it with --force") from None
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from None

    def write(self, text: str) -> int:
        """Append it."""
        data = memoryview(text.encode())
        while data:
            data = data[os.write(self._descriptor, data) :]
        return len(text)

    def flush(self) -> None:
        """Everything is written already."""

    @property
    def size(self) -> int:
        """Bytes written."""
        return os.fstat(self._descriptor).st_size


def default_path(name: str) -> Path:
    """A new name in the folder for temporary files: nothing is left beside the program."""
    safe = re.sub(r"[^\w.-]+", "-", name) or "program"
    return Path(tempfile.gettempdir()) / f"otel-asyncio-{safe}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.jsonl"


def need_extra(what: str, *modules: str) -> None:
    """Say which packages are missing, before anything is begun."""
    from importlib.util import find_spec  # noqa: PLC0415

    for module in modules:
        try:
            found = find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise UsageError(f"{what} {_NO_EXTRA} ({module})")


def console(stream: TextIO | None = None) -> Console:
    """A console that never fails for a character which its stream cannot show."""
    from rich.console import Console  # noqa: PLC0415 - the extra

    chosen = stream or sys.stdout
    if hasattr(chosen, "reconfigure"):
        chosen.reconfigure(errors="backslashreplace")
    return Console(file=chosen, highlight=False)


def say(text: str) -> None:
    """One line on standard error, where there is one: past all buffers, so that it works in a signal handler, too."""
    with suppress(OSError):
        os.write(2, f"otel-asyncio: {text}\n".encode())
