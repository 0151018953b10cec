#!/usr/bin/env python3
"""Run all tests on every supported interpreter: `python3 scripts/test.py`.

Sets up whatever it needs outside the checkout and keeps it there (OTEL_ASYNCIO_CACHE, else the user's cache
folder). Interpreters are looked for in OTEL_ASYNCIO_PYTHONS, on PATH and under pyenv; root on Debian gets
3.14 and 3.15 from a Debian sid in a folder of the cache. With OTEL_ASYNCIO_NO_SKIP=1 whatever could not be
run is a failure.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from time import monotonic

if sys.version_info < (3, 11):
    sys.exit("scripts/test.py itself needs Python 3.11 or newer")

from _environments import Environment, SetupError
from _lanes import Job, gathered, run_jobs, say
from _places import cache_folder, only_run
from _pythons import VERSIONS, Python, find_pythons
from _report import Report, Result
from _stages import (
    ANYIO_TOOLS,
    Stage,
    anyio_stage,
    chain_stage,
    cpython_stage,
    docs_stage,
    instructions_stage,
    lint_stages,
    outcome,
    package_stage,
    pytest_stage,
    reference_stage,
)  # fmt: skip
from backends import find_all

# Where the step hook in Python is tested, too: once, for the time it takes.
REFERENCE_VERSIONS = ("3.13",)
# The interpreter that benchmarks/instructions.json is for.
INSTRUCTIONS_VERSIONS = ("3.13",)
# The longest first, or one lane stands idle at the end; as measured.
ORDER = ("3.13", "3.12", "3.11", "3.15", "3.14")
KINDS = ("lint", "docs", "package", "chain", "anyio", "pytest", "reference", "instructions", "cpython")


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """What follows `--` goes to pytest."""
    own, extra = list(argv), []
    if "--" in own:
        cut = own.index("--")
        own, extra = own[:cut], own[cut + 1 :]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Arguments after -- are given to pytest.",
    )  # fmt: skip
    parser.add_argument("--python", action="append", choices=VERSIONS, help="only this version (repeatable)")
    parser.add_argument("--only", action="append", choices=KINDS, help="only this kind of stage (repeatable)")
    parser.add_argument("--lanes", type=int, default=3, help="how many interpreters at a time (default: %(default)s)")
    options = parser.parse_args(own)
    options.pytest = extra
    return options


def run_stage(report: Report, row: str, name: str, stage: Stage) -> bool:
    """Run one stage; an error in setting it up is a failure like any other."""
    with gathered(f"=== {name} on {row}"):
        began = monotonic()
        try:
            status = stage()
        except SetupError as error:
            say(str(error))
            status = 1
        result = Result(row, name, outcome(status), monotonic() - began)
        report.add(result)
        say(f"--- {name} on {row}: {result.cell()}")
    return status == 0


def prepare(report: Report, row: str, environment: Environment, name: str) -> bool:
    """Set an environment up, as a stage of its own: a failure belongs into the table."""

    def stage() -> int:
        environment.prepare()
        return 0

    return run_stage(report, row, name, stage)


def checks_environment(python: Python) -> Environment:
    """With what checks and builds this project."""
    return Environment(python, ["test", "lint", "docs"], tools=["build"])


def run_checks(report: Report, python: Python, kinds: Sequence[str]) -> None:
    """What is run once, on one interpreter, and quickly."""
    row = f"CPython {python.full_version}"
    environment = checks_environment(python)
    if not prepare(report, row, environment, "install lint"):
        return
    if "lint" in kinds:
        for name, stage in lint_stages(environment).items():
            run_stage(report, row, name, stage)
    if "docs" in kinds:
        run_stage(report, row, "docs", docs_stage(environment))


def run_chain_and_package(report: Report, python: Python, kinds: Sequence[str]) -> None:
    """What is run once, on one interpreter, and takes long."""
    row = f"CPython {python.full_version}"
    environment = checks_environment(python)
    if not prepare(report, row, environment, "install chain"):
        return
    if "package" in kinds:
        run_stage(report, row, "package", package_stage(environment))
    if "chain" in kinds:
        run_chain(report, row, environment)


def run_anyio(report: Report, python: Python) -> None:
    """In an environment of its own, with what its tests need."""
    row = f"CPython {python.full_version}"
    environment = Environment(python, ["test"], tools=ANYIO_TOOLS)
    if prepare(report, row, environment, "install anyio"):
        run_stage(report, row, "anyio", anyio_stage(environment))


def run_chain(report: Report, row: str, environment: Environment) -> None:
    """The tests skip what a missing backend makes impossible; here it is said."""
    _, missing = find_all()
    for name, reason in missing.items():
        say(f"NOT RUN: what of the chain needs {name}: {reason}")
        report.not_run.append(f"what of the chain needs {name}: {reason}")
    run_stage(report, row, "chain", chain_stage(environment))


def run_tests(report: Report, python: Python, options: argparse.Namespace, kinds: Sequence[str]) -> None:
    """What is run on every interpreter."""
    row = f"CPython {python.full_version}"
    environment = Environment(python, ["test"])
    if not prepare(report, row, environment, "install"):
        return
    if "pytest" in kinds:
        run_stage(report, row, "pytest", pytest_stage(environment, options.pytest))
    if "reference" in kinds and python.version in REFERENCE_VERSIONS:
        run_stage(report, row, "reference", reference_stage(environment, options.pytest))
    if "instructions" in kinds and python.version in INSTRUCTIONS_VERSIONS:
        run_stage(report, row, "instructions", instructions_stage(environment))
    if "cpython" in kinds:
        run_stage(report, row, "cpython", cpython_stage(environment))


def jobs(report: Report, options: argparse.Namespace) -> list[Job]:
    """What to run; no job needs another. The quick checks first: they fail first. What fills the gaps last."""
    kinds = options.only or KINDS
    pythons, missing = find_pythons(options.python or VERSIONS)
    for python in pythons:
        say(f"CPython {python.full_version}: {python.place.outside(python.executable)}")
    for version, reason in missing.items():
        say(f"NOT RUN: CPython {version}: {reason}")
        report.not_run.append(f"CPython {version}: {reason}")
    native = [python for python in pythons if python.native]
    found: list[Job] = []
    if {"lint", "docs", "package", "chain", "anyio"} & set(kinds) and not native:
        report.not_run.append("lint, docs, package, chain and anyio: no interpreter outside the Debian sid")
    elif {"lint", "docs"} & set(kinds):
        found.append(partial(run_checks, report, native[-1], kinds))
    if {"pytest", "reference", "instructions", "cpython"} & set(kinds):
        ordered = sorted(pythons, key=lambda python: ORDER.index(python.version))
        found += [partial(run_tests, report, python, options, kinds) for python in ordered]
    if {"package", "chain"} & set(kinds) and native:
        found.append(partial(run_chain_and_package, report, native[-1], kinds))
    if "anyio" in kinds and native:
        found.append(partial(run_anyio, report, native[-1]))
    return found


def main() -> int:
    """0 if everything that was run passed and, where that is asked for, everything was run."""
    options = arguments(sys.argv[1:])
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what it puts into the background
        signal.signal(signal.SIGINT, signal.default_int_handler)  # CPython's tests of it would wait for ever
    report = Report(strict=os.environ.get("OTEL_ASYNCIO_NO_SKIP") == "1")
    with only_run(cache_folder()):
        run_jobs(jobs(report, options), options.lanes)
    report.show()
    return 0 if report.succeeded() else 1


if __name__ == "__main__":
    sys.exit(main())
