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
MODULE_TIMEOUT_SECONDS = 300
COMPILED = "OTEL_ASYNCIO_COMPILED"
PROGRESS = re.compile(r"\[ *\d+/\d+(?:/\d+)?\] (?P<module>\S+) (?P<outcome>[a-z].*)")
DURATION = re.compile(r" \([\d.]+ (?:sec|min)[^)]*\)| in [\d.]+ (?:sec|min).*| -- running .*")
SUMMARY = "== Tests result"
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
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
        self.python = folder / "venv" / "bin" / "python"
        if traced:
            self._switch_tracing_on()

    def _switch_tracing_on(self) -> None:
        """The outer venv's packages and this checkout become importable, then tracing starts."""
        question = "import sysconfig; print(sysconfig.get_path('purelib'))"
        answer = subprocess.run([str(self.python), "-c", question], check=True, capture_output=True, text=True)
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
        log = self.folder / "regrtest.log"
        with log.open("w", encoding="utf-8") as output:
            subprocess.run(
                [*command, *modules], check=False, cwd=self.folder, env=_environment(os.environ),
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        return self._outcomes(report, log)

    def _outcomes(self, report: Path, log: Path) -> Outcomes:
        """Read both: what crashed is in the log alone, and if it was the only module there is no report."""
        outcomes = Outcomes()
        _read_log(log, outcomes)
        if report.exists():
            _read_report(report, outcomes)
        elif not outcomes.modules:
            message = "\n".join(["regrtest ran nothing; it said:", *_lines(log)])
            raise RuntimeError(message)
        return outcomes

    def spans(self) -> int:
        """How many spans all processes of the run exported."""
        return sum(int(line) for path in self.notes.glob("spans-*") for line in path.read_text().split())

    def startup_errors(self) -> list[str]:
        """Why tracing could not start, once per process in which it could not."""
        return self._notes("error")

    def internal_errors(self) -> list[str]:
        """What went wrong inside the package while tests ran, once per process."""
        return self._notes("internal")

    def _notes(self, kind: str) -> list[str]:
        return [path.read_text(encoding="utf-8") for path in sorted(self.notes.glob(f"{kind}-*"))]


def _lines(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8", errors="replace").splitlines()


def _environment(outer: Mapping[str, str]) -> dict[str, str]:
    """Settings of the outer run, ours and the interpreter's, must not reach the tests; but which flavour is tested."""
    dropped = ("PYTHON", "OTEL_", "VIRTUAL_ENV")
    return {name: value for name, value in outer.items() if name == COMPILED or not name.startswith(dropped)}


def _read_report(report: Path, outcomes: Outcomes) -> None:
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


def _read_log(log: Path, outcomes: Outcomes) -> None:
    """A module's verdict, followed by what the module printed: warnings, or stacks when its time is up."""
    module = None
    for line in _lines(log):
        if match := PROGRESS.search(line):
            module = match["module"]
            outcomes.modules[module] = DURATION.sub("", match["outcome"])
        elif line.startswith(SUMMARY):
            break
        elif module is not None:
            outcomes.details[module] = outcomes.details.get(module, "") + line + "\n"
