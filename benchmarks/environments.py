"""The benchmark's virtual environments: one for this project, one for each peer, outside the checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from variants import BESIDE, PROJECT

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)

_IDENTIFY = (
    "import json, platform, sys; "
    "print(json.dumps([sys.version_info[:2], platform.python_implementation(), platform.python_version()]))"
)
_CLEAN = ("OTEL_", "DD_", "SENTRY_", "PYTHON")
"""Settings of these programs that happen to be exported in the shell must not change what is measured."""


class Failed(Exception):
    """An environment could not be made; the text says which step and why."""


@dataclass(frozen=True)
class Interpreter:
    """A Python that can make environments."""

    path: str
    name: str

    @classmethod
    def at(cls, path: str) -> Interpreter:
        """Ask the interpreter what it is, and refuse one that the project does not support."""
        try:
            done = subprocess.run([path, "-c", _IDENTIFY], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as problem:
            raise Failed(f"{path} is not a Python that runs: {problem}") from problem
        version, implementation, full = json.loads(done.stdout)
        if tuple(version) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise Failed(f"{path} is Python {full}; {oldest} or later is needed (--python PATH)")
        return cls(path, f"{implementation} {full}")


def cache() -> Path:
    """Where environments live: never in the checkout."""
    if chosen := os.environ.get("OTEL_ASYNCIO_CACHE"):
        return Path(chosen).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().resolve() / "otel-asyncio"


def clean_environ() -> dict[str, str]:
    """The environment variables that the measured processes get."""
    kept = {name: os.environ[name] for name in ("OTEL_ASYNCIO_COMPILED",) if name in os.environ}
    return kept | {name: value for name, value in os.environ.items() if not name.startswith(_CLEAN)}


def prepare(interpreter: Interpreter, package: str) -> tuple[Path, list[str]]:
    """The environment's Python, and what could not be installed into it.

    A step that fails is told and passed over: the rows that need it are shown as missing, with the reason,
    and the others are measured all the same.
    """
    home = cache() / "benchmarks" / interpreter.name.replace(" ", "-") / package
    python = home / "bin" / "python"
    if not (home / "made").exists():
        _create(interpreter, home)
    problems = []
    for step in _steps(package):
        if not _stamp(home, step).exists():
            try:
                _install(python, step)
            except Failed as problem:
                problems.append(str(problem))
                continue
            if str(ROOT) not in step:  # the checkout changes under the same name
                _stamp(home, step).touch()
    return python, problems


def _steps(package: str) -> list[list[str]]:
    wanted = ["--upgrade", str(ROOT)] if package == PROJECT else [*BESIDE.get(package, ()), package]
    return [["uvloop"], wanted]


def _stamp(home: Path, step: list[str]) -> Path:
    return home / f"installed-{Path(step[-1]).name}"


def _create(interpreter: Interpreter, home: Path) -> None:
    _say(f"making {home}")
    home.parent.mkdir(parents=True, exist_ok=True)
    done = _run([interpreter.path, "-m", "venv", "--clear", str(home)])
    if done.returncode:
        words = _last_line(done.stdout + done.stderr)
        raise Failed(f"no virtual environment from {interpreter.path}: {words}")
    (home / "made").touch()  # last: one left half made is made anew


def _install(python: Path, step: list[str]) -> None:
    _say(f"installing {step[-1]}")
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *step]
    done = _run(command)
    if done.returncode:
        raise Failed(f"pip could not install {step[-1]}: {_last_line(done.stderr)}")


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, env=clean_environ())


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(ERROR|\w+Error): ", line)]
    return (errors or lines or ["no word why"])[-1]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
