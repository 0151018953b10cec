"""Virtual environments, kept between runs: one per interpreter build, extras and pyproject.toml."""

from __future__ import annotations

import hashlib
import shutil
import tomllib
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from _lanes import say
from _places import ROOT
from _pythons import Python

KEPT_PER_INTERPRETER = 3
_one_at_a_time = Lock()  # to build writes into the checkout
PIP = ("-m", "pip", "-q", "--no-input")


class SetupError(Exception):
    """An environment could not be made; says which command failed."""

    def __init__(self, status: int, *command: str | Path) -> None:
        super().__init__(f"exit status {status}: {' '.join(str(word) for word in command)}")


class Environment:
    """An interpreter with the project (editable, so the checkout as it is) and some of its extras."""

    def __init__(self, python: Python, extras: Sequence[str], tools: Sequence[str] = ()) -> None:
        self.place = python.place
        self._base = python.executable
        self._tag = python.version.replace(".", "")
        self._extras = ",".join(extras)
        self._tools = [*_build_requires(), *tools]
        pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        key = hashlib.sha256("\n".join([pyproject, python.build, str(self._base), *self._tools]).encode())
        self._family = f"{python.version}-{'+'.join(extras)}"
        self.folder = self.place.cache / "venvs" / f"{self._family}-{key.hexdigest()[:12]}"
        self.python = self.folder / "bin" / "python"
        self.wheels = self.folder / "wheels"
        # Written last and removed first: an environment without it was left half made.
        self._marker = self.place.outside(self.folder / "ready")

    def prepare(self) -> None:
        """Make it if need be, and see to it that it shows this checkout. Only making it takes the network."""
        with _one_at_a_time:
            if not self._marker.exists():
                self._make()
            elif self._marker.read_text(encoding="utf-8") != self._shown() or not (self.native and self._is_built()):
                self._point_at_checkout()
        self._marker.write_text(self._shown(), encoding="utf-8")

    @property
    def native(self) -> bool:
        """On this checkout itself, which keeps what was compiled; elsewhere it is copied anew for each run."""
        return not self.place.prefix

    def _is_built(self) -> bool:
        """Whether the checkout has its compiled part: a fresh clone in the same folder has not, nor a cleaned one."""
        return any((ROOT / "otel_asyncio" / "observe").glob(f"_compiled.cpython-{self._tag}-*"))

    def _shown(self) -> str:
        """Which checkout it shows, and what was compiled there."""
        sources = sorted((ROOT / "compiled").iterdir())
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in [ROOT / "setup.py", *sources]))
        return f"{self.place.project} {digest.hexdigest()}"

    def run(self, *arguments: str | Path, folder: Path | None = None, timeout: float = 1800) -> int:
        """Run this environment's interpreter."""
        return self.place.run(self.python, *arguments, folder=folder, timeout=timeout)

    def run_reference(self, *arguments: str | Path, timeout: float = 1800) -> int:
        """The same with the step hook in Python, also where the compiled one was built."""
        return self.place.run("env", "OTEL_ASYNCIO_COMPILED=0", self.python, *arguments, timeout=timeout)

    def check(self, *arguments: str | Path, folder: Path | None = None) -> None:
        """Run this environment's interpreter for something that must succeed."""
        if status := self.run(*arguments, folder=folder):
            raise SetupError(status, self.python, *arguments)

    def _make(self) -> None:
        say(f"making {self.folder.name}")
        shutil.rmtree(self.place.outside(self.folder), ignore_errors=True)
        self._forget_old_ones()
        if status := self.place.run(self._base, "-m", "venv", self.folder):
            raise SetupError(status, self._base, "-m", "venv", self.folder)
        # First: the pip that came with an older interpreter may not find the versions that fit together.
        self.check(*PIP, "install", "--upgrade", "pip")
        self.check(*PIP, "install", *self._tools, "-e", f".[{self._extras}]")

    def _point_at_checkout(self) -> None:
        """Another checkout with the same pyproject.toml used it before, or the compiled part has changed."""
        self._marker.unlink()
        self.check(*PIP, "install", "--no-index", "--no-deps", "--no-build-isolation", "-e", ".")

    def _forget_old_ones(self) -> None:
        """Every change of pyproject.toml makes a new environment; the caches of build machines are finite."""
        venvs = self.place.outside(self.folder.parent)
        family = sorted(venvs.glob(f"{self._family}-*"), key=lambda path: path.stat().st_mtime, reverse=True)
        for folder in family[KEPT_PER_INTERPRETER - 1 :]:
            shutil.rmtree(folder, ignore_errors=True)

    def collect_wheels(self) -> None:
        """Keep what the project depends on as wheels, so that installing ours later needs no network."""
        done = self.place.outside(self.wheels / "complete")
        if not done.exists():
            self.check(*PIP, "wheel", "--no-build-isolation", "-w", self.wheels, ".")
            done.touch()


def _build_requires() -> list[str]:
    """The backend goes in too: without it an environment cannot be pointed at another checkout offline."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        requires: list[str] = tomllib.load(file)["build-system"]["requires"]
    return requires
