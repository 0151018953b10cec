"""Run anyio's own tests, those of its asyncio backend, bare and traced, and fail if tracing makes a difference.

`PYTHON tests/anyio_suite/run.py`, with the interpreter of an environment in which `otel_asyncio`, anyio and what its
tests need are installed. The tests are those of the installed release, out of its source distribution, which pip
brings once into `OTEL_ASYNCIO_CACHE` if that is set.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
STARTUP = HERE.parent / "cpython" / "traced_startup.py"
RUN_TIMEOUT_SECONDS = 600
COMPILED = "OTEL_ASYNCIO_COMPILED"
MINIMUM_SPANS = 3000
"""All parts together export some ten thousand. Far fewer, and most of it was not traced at all."""

# What cancels, waits, groups, hands over to threads, and the streams on top. Left out: sockets and the pytest plugin (minutes
# of name resolution and of child processes), files and processes (nothing of ours is on their way).
PARTS = (
    *(f"tests/test_{name}.py" for name in (
        "taskgroups", "synchronization", "from_thread", "to_thread", "contextmanagers", "concurrency_utils", "debugging",
        "eventloop", "functools", "futures", "itertools", "lowlevel", "signals",
    )),
    "tests/streams",
)  # fmt: skip


def sources(folder: Path) -> Path:
    """The unpacked source distribution of the anyio that is installed."""
    release = version("anyio")
    cache = os.environ.get("OTEL_ASYNCIO_CACHE")
    kept = Path(cache) / "anyio" if cache else folder / "anyio"
    archive = kept / f"anyio-{release}.tar.gz"
    if not archive.exists():
        options = ("--no-deps", "--no-binary", "anyio", "--dest", kept)
        subprocess.run([sys.executable, "-m", "pip", "-q", "download", *options, f"anyio=={release}"], check=True)
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / f"anyio-{release}"


class Suite:
    """One way of running the tests, traced or not."""

    def __init__(self, tests: Path, folder: Path, *, traced: bool) -> None:
        self.tests, self.folder = tests, folder
        self.notes = folder / "traced_notes"
        self.notes.mkdir(parents=True)
        self._plugin = ["-p", STARTUP.stem] if traced else []
        if traced:
            shutil.copy(STARTUP, folder)

    def run(self, what: Collection[str] = PARTS) -> dict[str, str]:
        """What became of each test, by its name."""
        report, log = self.folder / "report.xml", self.folder / "pytest.log"
        report.unlink(missing_ok=True)
        kept = {
            name: value
            for name, value in os.environ.items()
            if name == COMPILED or not name.startswith(("PYTHON", "OTEL_", "PYTEST"))
        }
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junit-xml", str(report)]
        with log.open("w", encoding="utf-8") as output:
            subprocess.run(
                [*command, *self._plugin, *what], check=False, cwd=self.tests, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, timeout=RUN_TIMEOUT_SECONDS,
                env=kept | {"PYTHONPATH": str(self.folder), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            )  # fmt: skip
        if not report.exists():
            raise SystemExit(f"pytest ran nothing; it said:\n{log.read_text(encoding='utf-8', errors='replace')}")
        return dict(map(outcome, ET.parse(report).iter("testcase")))

    def log(self) -> str:
        """What pytest printed last."""
        return (self.folder / "pytest.log").read_text(encoding="utf-8", errors="replace")

    def spans(self) -> int:
        """How many spans were exported."""
        return sum(int(line) for path in self.notes.glob("spans-*") for line in path.read_text().split())

    def troubles(self) -> list[str]:
        """Why tracing could not start, or what went wrong inside the package."""
        paths = [*self.notes.glob("error-*"), *self.notes.glob("internal-*")]
        return [path.read_text(encoding="utf-8") for path in paths]


def outcome(case: ET.Element) -> tuple[str, str]:
    """The name of a test, and `passed`, `skipped` or `failed`."""
    failed = any(child.tag in ("failure", "error") for child in case)
    word = "failed" if failed else "skipped" if case.find("skipped") is not None else "passed"
    return f"{case.get('classname')}.{case.get('name')}", word


def load_sensitive() -> set[str]:
    """What is listed beside this file."""
    lines = (HERE / "load_sensitive.txt").read_text(encoding="utf-8").splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def selector(name: str) -> str:
    """`tests.test_x.TestY.test_z[asyncio]` as pytest wants to be told: `tests/test_x.py::TestY::test_z[asyncio]`."""
    path, bracket, parameters = name.partition("[")
    words = path.split(".")
    count = 1 + max(index for index, word in enumerate(words) if word.startswith("test_") and index < len(words) - 1)
    return "/".join(words[:count]) + ".py::" + "::".join(words[count:]) + bracket + parameters


def compare(folder: Path) -> bool:
    """Bare, traced, and the difference: what passed bare and did not pass traced."""
    tests = sources(folder)
    began = time.monotonic()
    bare = Suite(tests, folder / "bare", traced=False).run()
    between = time.monotonic()
    suite = Suite(tests, folder / "traced", traced=True)
    traced, log, listed = suite.run(), suite.log(), load_sensitive()
    lost = {name for name, word in bare.items() if word == "passed" and traced.get(name) != "passed"}
    again = {name for name in lost if re.sub(r"\[.*", "", name) in listed}
    if again:
        second = suite.run(sorted(map(selector, again)))
        lost -= {name for name in again if second.get(name) == "passed"}
    print(
        f"anyio {version('anyio')}: {len(traced)} tests, {list(bare.values()).count('failed')} fail bare, {len(lost)} more "
        f"traced ({len(again)} tried again); {suite.spans()} spans; bare {between - began:.0f} s, traced "
        f"{time.monotonic() - between:.0f} s"
    )
    for trouble in suite.troubles()[:1]:
        print(f"  tracing gave up:\n{trouble}")
    if lost:
        print(*sorted(f"  {name}: {traced.get(name, 'did not run')} traced, passed bare" for name in lost), sep="\n")
        print(log[log.find("= FAILURES") :][:20_000])
    if (spans := suite.spans()) < MINIMUM_SPANS:
        print(f"  only {spans} spans were exported, at least {MINIMUM_SPANS} expected: this run was not traced")
        return False
    return not lost and not suite.troubles()


def main() -> int:
    """0 for no difference."""
    with tempfile.TemporaryDirectory(prefix="otel-asyncio-anyio-") as folder:
        return 0 if compare(Path(folder)) else 1


if __name__ == "__main__":
    sys.exit(main())
