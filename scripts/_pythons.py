"""Find a CPython of each supported version on this machine, or in the Debian sid that fills the gaps."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from _places import Place, debian_sid, this_machine

VERSIONS = ("3.11", "3.12", "3.13", "3.14", "3.15")
IN_DEBIAN_SID = ("3.14", "3.15")
PROBE = """
import importlib.util as util, json, os, sys
found = lambda name: util.find_spec(name) is not None
print(json.dumps({
    "name": sys.implementation.name, "version": list(sys.version_info[:3]), "build": sys.version,
    "executable": os.path.realpath(sys.executable),
    "pip": found("ensurepip"), "tests": found("test.test_asyncio"),
}))
"""


@dataclass(frozen=True)
class Python:
    """One interpreter and where it runs."""

    version: str
    full_version: str
    build: str
    executable: Path
    place: Place

    @property
    def native(self) -> bool:
        """Not in another file system."""
        return not self.place.prefix


@dataclass(frozen=True)
class _Candidate:
    python: Python
    can_make_venvs: bool
    has_own_tests: bool

    def rank(self) -> tuple[bool, bool, tuple[int, ...]]:
        """A Debian package without venv or tests loses against a full build of any age."""
        release = tuple(int(part) for part in self.python.full_version.split("."))
        return self.can_make_venvs, self.has_own_tests, release


def find_pythons(versions: Iterable[str]) -> tuple[list[Python], dict[str, str]]:
    """The interpreters to use, oldest first, and for each version that is missing the reason."""
    chosen: dict[str, Python] = {}
    missing: dict[str, str] = {}
    for version in versions:
        candidates = _probe_all(_named(), version) or _probe_all(_usual_places(version), version)
        best = max(candidates, key=_Candidate.rank, default=None)
        if best is None:
            missing[version] = "no such interpreter on PATH, under pyenv or in OTEL_ASYNCIO_PYTHONS"
        elif not best.can_make_venvs:
            missing[version] = f"{best.python.executable} has no ensurepip (on Debian: python{version}-venv)"
        else:
            chosen[version] = best.python
    _fill_gaps(chosen, missing)
    return sorted(chosen.values(), key=lambda python: VERSIONS.index(python.version)), missing


def _fill_gaps(chosen: dict[str, Python], missing: dict[str, str]) -> None:
    gaps = [version for version in missing if version in IN_DEBIAN_SID]
    place = debian_sid() if gaps else None
    for version in gaps:
        if place is None:
            missing[version] += ", and no Debian sid could be built (that takes root, Debian and its archive)"
        elif found := _probe(Path(f"/usr/bin/python{version}"), version, place):
            chosen[version] = found.python
            del missing[version]


def _named() -> list[Path]:
    """What the user names takes the place of what else there is of that version."""
    names = os.environ.get("OTEL_ASYNCIO_PYTHONS", "").split(os.pathsep)
    return [Path(name).expanduser().absolute() for name in names if name]


def _usual_places(version: str) -> Iterator[Path]:
    for folder in os.get_exec_path():
        if found := shutil.which(f"python{version}", path=folder):
            yield Path(found)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from pyenv.glob(f"versions/{version}.*/bin/python{version}")


def _probe_all(paths: Iterable[Path], version: str) -> list[_Candidate]:
    return [found for path in paths if (found := _probe(path, version, this_machine()))]


def _probe(path: Path, version: str, place: Place) -> _Candidate | None:
    """Ask it what it is: a name on PATH may be a shim that fails, or another version."""
    command = [*place.prefix, str(path), "-I", "-c", PROBE]
    try:
        answer = subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
        )
        facts = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    full_version = ".".join(str(part) for part in facts["version"])
    if facts["name"] != "cpython" or not full_version.startswith(f"{version}."):
        return None
    python = Python(version, full_version, facts["build"], Path(facts["executable"]), place)
    return _Candidate(python, facts["pip"], facts["tests"])
