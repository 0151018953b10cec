"""Run CPython's own asyncio tests bare and traced, and fail if tracing makes a difference.

`PYTHON tests/cpython/run.py`, with the interpreter of an environment in which `otel_asyncio` is installed.
The bare results of an interpreter build are kept in `OTEL_ASYNCIO_CACHE` if that is set; `--fresh` ignores
them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
import tomllib
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from regression import HERE, Outcomes, Suite, test_modules

# All modules together export tens of thousands of spans. Far fewer, and most of it was not traced at all.
MINIMUM_SPANS_PER_MODULE = 10
DETAIL_LINES = 30
DETAIL_WIDTH = 1000
DESCRIBED = 12
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
NOT_RUN = 77


@dataclass(frozen=True)
class Expected:
    """What `expected.toml` says about this Python version."""

    reasons: dict[str, str]
    load_sensitive: frozenset[str]


def read_expected(path: Path, version: str) -> Expected:
    """Only what applies to `version`, so that a leftover entry for another one excuses nothing."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    entries = [entry for entry in content.get("expected", []) if version in entry["pythons"]]
    return Expected({entry["test"]: entry["reason"] for entry in entries}, frozenset(content["load_sensitive"]))


def module_of(name: str) -> str:
    """`test.test_asyncio.test_x.Class.test_y` (or the module itself) to `test.test_asyncio.test_x`."""
    return ".".join(name.split(".")[:3])


def rerun(suite: Suite, names: Collection[str]) -> Outcomes:
    """Some tests again, one process at a time, without the load of the others beside them."""
    modules = sorted({module_of(name) for name in names})
    whole = any(name in modules for name in names)
    return suite.run(modules, jobs=1, only=() if whole else sorted(names))


def baseline_path(modules: list[str]) -> Path | None:
    """One file per interpreter build; None if nobody named a cache."""
    cache = os.environ.get("OTEL_ASYNCIO_CACHE")
    if not cache:
        return None
    identity = [sys.version, sys.implementation.name, os.path.realpath(sys.executable), *modules]
    identity.append((HERE / "regression.py").read_text(encoding="utf-8"))
    key = hashlib.sha256("\n".join(identity).encode()).hexdigest()[:16]
    return Path(cache) / "cpython-baseline" / f"{VERSION}-{key}.json"


def bare_outcomes(suite: Suite, modules: list[str], jobs: int, *, fresh: bool) -> Outcomes:
    """The baseline. What fails is tried again: a chance failure here would excuse a real one later."""
    kept = baseline_path(modules)
    if kept is not None and kept.exists() and not fresh:
        return Outcomes(**json.loads(kept.read_text(encoding="utf-8")))
    outcomes = suite.run(modules, jobs)
    if failed := outcomes.failed():
        outcomes = outcomes.merged(rerun(suite, failed))
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        unfinished = kept.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(asdict(outcomes)), encoding="utf-8")
        unfinished.replace(kept)
    return outcomes


def differences(bare: Outcomes, traced: Outcomes) -> set[str]:
    """Tests that fail, are skipped or do not run at all when traced, although they passed bare.

    A module that crashed or timed out stands for its tests that did not run.
    """
    passed = {name for name, outcome in bare.tests.items() if outcome == "passed"}
    lost = {name for name in passed if traced.tests.get(name) != "passed"}
    cut_short = {name for name in traced.failed() if not traced.modules.get(name, "failed").startswith("failed")}
    lost -= {name for name in lost if name not in traced.tests and module_of(name) in cut_short}
    return lost | (traced.failed() - bare.failed())


def confirmed(suite: Suite, bare_suite: Suite, names: set[str], listed: Expected) -> tuple[set[str], Outcomes]:
    """What is left of the differences after a second look, and what that look saw.

    Load-sensitive tests are run once more, traced; the others bare, in case it is the machine that has
    changed since the baseline was taken.
    """
    second = Outcomes()
    if again := names & listed.load_sensitive:
        second = rerun(suite, again)
        names = (names - again) | {name for name in again if not _passes(second, name)}
    if suspects := names - listed.load_sensitive - listed.reasons.keys():
        names -= rerun(bare_suite, suspects).failed()
    return names, second


def _passes(outcomes: Outcomes, name: str) -> bool:
    return (outcomes.tests | outcomes.modules).get(name, "").startswith("passed")


def describe(name: str, outcomes: Outcomes) -> str:
    """One failure, with the end of its traceback or the beginning of what its module printed."""
    outcome = (outcomes.tests | outcomes.modules).get(name, "did not run to its end (or a subtest failed)")
    lines = outcomes.details.get(name, "").splitlines()
    detail = lines[:DETAIL_LINES] if name in outcomes.modules else lines[-DETAIL_LINES:]
    shortened = [line[:DETAIL_WIDTH] for line in detail]
    return "\n    ".join([f"  {name}: {outcome} traced, passed bare", *shortened])


def verdict(found: set[str], outcomes: Outcomes, listed: Expected) -> bool:
    """Print what differs and whether it may; True if all is well."""
    new = sorted(found - listed.reasons.keys())
    for name in sorted(found & listed.reasons.keys()):
        print(f"  expected: {name}: {listed.reasons[name]}")
    for name in sorted(listed.reasons.keys() - found):
        if module_of(name) in outcomes.modules:
            print(f"  listed in expected.toml, but makes no difference on {VERSION}: {name}")
    for name in new[:DESCRIBED]:
        print(describe(name, outcomes))
    for name in new[DESCRIBED:]:
        print(f"  {name}: also fails traced (details left out)")
    return not new


def was_traced(suite: Suite, modules: list[str]) -> bool:
    """A run in which the package gave up or never started passes every test and proves nothing."""
    for kind, errors in (("start", suite.startup_errors()), ("go on", suite.internal_errors())):
        if errors:
            print(f"  tracing could not {kind} in {len(errors)} processes; the first said:\n{errors[0]}")
            return False
    spans, enough = suite.spans(), MINIMUM_SPANS_PER_MODULE * len(modules)
    if spans < enough:
        print(f"  only {spans} spans were exported, at least {enough} expected: this run was not traced")
    return spans >= enough


def compare(folder: Path, modules: list[str], jobs: int, *, fresh: bool) -> bool:
    """Bare, traced, and the difference."""
    listed = read_expected(HERE / "expected.toml", VERSION)
    began = time.monotonic()
    bare_suite, suite = Suite(folder / "bare", traced=False), Suite(folder / "traced", traced=True)
    if errors := suite.startup_errors():
        print(f"tracing cannot start:\n{errors[0]}")
        return False
    bare = bare_outcomes(bare_suite, modules, jobs, fresh=fresh)
    bare_done = time.monotonic()
    traced = suite.run(modules, jobs)
    found, second = confirmed(suite, bare_suite, differences(bare, traced), listed)
    print(
        f"CPython {VERSION} test_asyncio: {len(traced.tests)} tests in {len(traced.modules)} modules, "
        f"{len(bare.failed())} fail bare, {len(found)} more traced; {suite.spans()} spans; "
        f"bare {bare_done - began:.0f} s, traced {time.monotonic() - bare_done:.0f} s"
    )
    same = verdict(found, traced.merged(second), listed)
    return was_traced(suite, modules) and same


def main() -> int:
    """0 for no difference, 1 for a difference, 77 for no tests to run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fresh", action="store_true", help="measure the bare results anew")
    parser.add_argument("--jobs", type=int, default=2, help="test modules at a time (default: 2)")
    parser.add_argument("modules", nargs="*", help="modules such as test_tasks (default: all)")
    options = parser.parse_args()
    modules = [name for name in test_modules() if not options.modules or name.split(".")[-1] in options.modules]
    if not modules:
        print(f"NOT RUN: CPython {VERSION} at {sys.executable} comes without test.test_asyncio")
        return NOT_RUN
    with tempfile.TemporaryDirectory(prefix="otel-asyncio-cpython-") as folder:
        return 0 if compare(Path(folder), modules, options.jobs, fresh=options.fresh) else 1


if __name__ == "__main__":
    sys.exit(main())
