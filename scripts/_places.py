"""Where commands run, on this machine or in a Debian system inside a folder, and where everything is kept."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from _lanes import gathering, say

ROOT = Path(__file__).resolve().parent.parent
TIMED_OUT = 124
# Settings of whoever started us that would change what the tests see. Our own are set anew for each command.
STRIPPED = ("PYTHON", "PYENV", "VIRTUAL_ENV", "OTEL_")
# Locations that mean nothing inside another root file system.
STRIPPED_INSIDE = ("HOME", "PATH", "PIP_FIND_LINKS", "TMPDIR", "XDG_")
NOT_COPIED = (".git", "__pycache__", ".*_cache", ".hypothesis", ".venv*", "dist", "build", "*.egg-info")


def cache_folder() -> Path:
    """Everything that survives a run, outside the checkout."""
    if named := os.environ.get("OTEL_ASYNCIO_CACHE"):
        return Path(named).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "otel-asyncio"


@contextmanager
def only_run(cache: Path) -> Iterator[None]:
    """One run at a time per cache: two would rewrite each other's environments and disturb the timing."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another run is using {cache}; waiting for its end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class Place:
    """A file system to run commands in, with the project and a cache inside it."""

    project: Path
    cache: Path
    root: Path = Path("/")
    prefix: tuple[str, ...] = ()

    def outside(self, inner: Path) -> Path:
        """The same file, as this process sees it."""
        return self.root / inner.relative_to("/")

    def run(self, *command: str | Path, folder: Path | None = None, timeout: float = 1800) -> int:
        """Run with our output and no input; return the exit status. What hangs is stopped."""
        words = [str(word) for word in command]
        if self.prefix:
            words = [*self.prefix, "env", "-C", str(folder or self.project), *words]
        return _run(words, cwd=None if self.prefix else folder or self.project, env=self._variables(), timeout=timeout)

    def _variables(self) -> dict[str, str]:
        """The outer variables without those that would change what the tests see."""
        stripped = STRIPPED + STRIPPED_INSIDE if self.prefix else STRIPPED
        variables = {name: value for name, value in os.environ.items() if not name.startswith(stripped)}
        if self.prefix:
            variables |= {"HOME": "/root", "LANG": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        variables |= {name: os.environ[name] for name in ("OTEL_ASYNCIO_NO_SKIP",) if name in os.environ}
        return variables | {"OTEL_ASYNCIO_CACHE": str(self.cache), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def _run(words: Sequence[str], *, cwd: Path | None, env: dict[str, str], timeout: float) -> int:
    output = {"stdout": gathering(), "stderr": subprocess.STDOUT} if gathering() else {}
    process = subprocess.Popen(words, cwd=cwd, env=env, stdin=subprocess.DEVNULL, start_new_session=True, **output)
    ended = False
    try:
        status = process.wait(timeout)
        ended = True
    except subprocess.TimeoutExpired:
        say(f"stopped after {timeout:.0f} s: {' '.join(words)}")
        return TIMED_OUT
    finally:
        if not ended:  # also on Ctrl-C: the command has a session of its own and did not get it
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return status


def this_machine() -> Place:
    """Commands run right here, on this checkout."""
    return Place(project=ROOT, cache=cache_folder())


def debian_sid() -> Place | None:
    """A Debian sid with newer interpreters, built when first needed; None where that cannot be done."""
    folder = cache_folder() / "sid"
    script = ROOT / "scripts" / "newer_pythons.sh"
    recipe = script.read_text(encoding="utf-8")
    marker = folder / ".recipe"
    if not marker.exists() or marker.read_text(encoding="utf-8") != recipe:
        if os.geteuid() != 0 or not Path("/etc/debian_version").exists():
            return None
        began = monotonic()
        say(f"building a Debian sid with newer interpreters in {folder}")
        if this_machine().run("sh", script, "build", folder) != 0:
            return None
        marker.write_text(recipe, encoding="utf-8")
        say(f"built in {monotonic() - began:.0f} s")
    place = Place(
        Path("/srv/otel-asyncio"),
        Path("/var/cache/otel-asyncio"),
        folder,
        ("sh", str(script), "enter", str(folder)),
    )
    _copy_project(place)
    return place


def _copy_project(place: Place) -> None:
    """The checkout as it is now. A copy, because not every container may mount; only once per run."""
    target = place.outside(place.project)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT, target, symlinks=True, ignore=shutil.ignore_patterns(*NOT_COPIED))
