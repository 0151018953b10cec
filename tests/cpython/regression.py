"""Run CPython's own regrtest in a throwaway venv, bare or traced, and read what became of every test.

A venv, because its `.pth` file switches tracing on in each process that a test starts, however it is started.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent
STARTUP = HERE / "traced_startup.py"
MODULE_TIMEOUT_SECONDS = 400
PROGRESS = re.compile(r"\[ *\d+/\d+(?:/\d+)?\] (?P<module>\S+) (?P<outcome>[a-z].*)")
DURATION = re.compile(r" \([\d.]+ (?:sec|min)[^)]*\)| in [\d.]+ (?:sec|min).*| -- running .*")
UNREMARKABLE = ("passed", "skipped")


@dataclass
class Outcomes:
    """What a run said of each test and, because XML leaves out class and module failures, of each module."""

    tests: dict[str, str] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)

    def failed(self) -> set[str]:
        """Tests that failed, and modules in trouble that no failed test of theirs explains."""
        tests = {name for name, outcome in self.tests.items() if outcome == "failed"}
        modules = {name for name, outcome in self.modules.items() if not outcome.startswith(UNREMARKABLE)}
        return tests | {name for name in modules if not any(test.startswith(f"{name}.") for test in tests)}

    def merged(self, newer: Outcomes) -> Outcomes:
        """This run with what a rerun of some of its tests said instead."""
        return Outcomes(self.tests | newer.tests, self.modules | newer.modules, self.details | newer.details)


def test_modules() -> list[str]:
    """Those modules of `test.test_asyncio` that mean something on POSIX; none if they are not installed."""
    folder = Path(sysconfig.get_path("stdlib")) / "test" / "test_asyncio"
    names = sorted(path.stem for path in folder.glob("test_*.py"))
    return [f"test.test_asyncio.{name}" for name in names if "windows" not in name and "proactor" not in name]


class Suite:
    """One way of running the tests: a venv in `folder`, traced or not."""

    def __init__(self, folder: Path, *, traced: bool) -> None:
        self.folder = folder
        self.notes = folder / "notes"
        self.logs: list[Path] = []
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
        self.python = folder / "venv" / "bin" / "python"
        if traced:
            self._switch_tracing_on()

    def _switch_tracing_on(self) -> None:
        """The outer venv's packages and this checkout become importable, then tracing starts."""
        question = "import sysconfig; print(sysconfig.get_path('purelib'))"
        answer = subprocess.run(
            [str(self.python), "-c", question], check=True, capture_output=True, text=True
        )
        site = Path(answer.stdout.strip())
        shutil.copy(STARTUP, site)
        self.notes = site / "traced_notes"
        self.notes.mkdir()
        lines = [
            str(PROJECT),
            sysconfig.get_path("purelib"),
            sysconfig.get_path("platlib"),
            "import traced_startup",
        ]
        (site / "traced.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")
        subprocess.run([str(self.python), "-c", ""], check=True)  # leaves a note if tracing cannot start

    def run(self, modules: Iterable[str], jobs: int, only: Sequence[str] = ()) -> Outcomes:
        """Run whole modules, or `only` some of their tests."""
        report = self.folder / "report.xml"
        report.unlink(missing_ok=True)
        command = [str(self.python), "-m", "test", f"-j{jobs}", f"--timeout={MODULE_TIMEOUT_SECONDS}"]
        command += ["--junit-xml", str(report)]
        for name in only:
            command += ["-m", name]
        self.logs.append(self.folder / f"regrtest-{len(self.logs)}.log")
        with self.logs[-1].open("w", encoding="utf-8") as log:
            subprocess.run(
                [*command, *modules], check=False, cwd=self.folder, env=_environment(os.environ),
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        if not report.exists():
            message = f"regrtest left no report; it said:\n{_tail(self.logs[-1])}"
            raise RuntimeError(message)
        return _read(report, self.logs[-1])

    def output(self) -> str:
        """The end of what regrtest printed about the first, whole run: it names crashes and timeouts."""
        return _tail(self.logs[0])

    def spans(self) -> int:
        """How many spans all processes of the run exported."""
        return sum(int(line) for path in self.notes.glob("spans-*") for line in path.read_text().split())

    def startup_errors(self) -> list[str]:
        """Why tracing could not start, once per process in which it could not."""
        return [path.read_text(encoding="utf-8") for path in sorted(self.notes.glob("error-*"))]


def _tail(log: Path, lines: int = 40) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _environment(outer: Mapping[str, str]) -> dict[str, str]:
    """Settings of the outer run, ours and the interpreter's, must not reach the tests."""
    return {
        name: value
        for name, value in outer.items()
        if not name.startswith(("PYTHON", "OTEL_", "VIRTUAL_ENV"))
    }


def _read(report: Path, log: Path) -> Outcomes:
    outcomes = Outcomes()
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - written by the interpreter under test
        name = case.get("name")
        if name is None:  # regrtest does not name a test whose subtest failed: it goes missing, and is missed
            continue
        trouble = [child for child in case if child.tag in ("failure", "error")]
        skipped = case.find("skipped") is not None
        outcome = "failed" if trouble else "skipped" if skipped else "passed"
        if outcomes.tests.get(name) != "failed":
            outcomes.tests[name] = outcome
        if trouble:
            outcomes.details[name] = trouble[0].text or ""
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if match := PROGRESS.search(line):
            outcomes.modules[match["module"]] = DURATION.sub("", match["outcome"])
    return outcomes
