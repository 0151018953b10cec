"""One process of the benchmark: measures its variants on one kind of loop, one JSON line per finding.

Started by run.py with the environment's interpreter. Lines are written as they come, so that a peer that
takes the process down in a later part does not take the earlier numbers with it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
from importlib import metadata
from typing import Any

import measure
from subjects import Subject, Unusable
from variants import BY_KEY

INTERESTING = ("otel-asyncio", "opentelemetry-api", "opentelemetry-sdk", "uvloop")


def main() -> None:
    """Measure what the command line names."""
    options = _arguments()
    logging.disable(logging.WARNING)  # asyncio's "took too long" in debug mode; the SDK's notes about itself
    say(versions=_versions([BY_KEY[key].package for key in options.variants]))
    subjects = {"bare": Subject()} | {
        key: subject for key in options.variants if key != "bare" and (subject := _open(key, options.loop)) is not None
    }
    if subjects.keys() & set(options.variants):
        _measure(subjects, options)
    for subject in subjects.values():
        subject.close()


def _measure(subjects: dict[str, Subject], options: argparse.Namespace) -> None:
    """Time first, while the heap is small; then what each variant leaves behind and holds."""
    if options.variants == ["bare"]:
        subjects["again"] = Subject()  # the bare loop against itself: the noise of the method
    tasks = 0
    for sweep in measure.sweeps(subjects, options.loop, options.tasks, options.seconds):
        say(sweep=sweep)
        tasks += measure.tasks_in_a_sweep(options.tasks)
    for key, subject in subjects.items():
        if fault := subject.fault(tasks):
            say(variant=key, unusable=fault)
        elif (spans := subject.spans()) is not None:
            say(variant=key, spans_per_task=spans / tasks)
    share = min(BY_KEY[key].share for key in options.variants)
    for key, subject in subjects.items():
        if key != "again" and not subject.fault(tasks):
            _weigh(key, subject, options, share)


def _weigh(key: str, subject: Subject, options: argparse.Namespace, share: float) -> None:
    """Garbage and bytes. The bare loop is weighed with the same counts: growth of tables cancels out."""
    garbage_tasks, live_tasks = round(options.garbage * share), round(options.live * share)
    try:
        garbage = measure.cyclic_garbage(subject, options.loop, garbage_tasks)
        say(variant=key, garbage=garbage, garbage_tasks=garbage_tasks)
        weight = measure.bytes_per_task(subject, options.loop, live_tasks)
        say(variant=key, bytes=weight, live_tasks=live_tasks)
    except Exception as problem:
        say(variant=key, note=f"garbage and memory: {_in_words(problem)}")


def _open(key: str, loop: str) -> Subject | None:
    """The subject, once it has shown that it sees a task; a peer may fail in any way at all."""
    module, _, name = BY_KEY[key].subject.partition(":")
    try:
        subject: Subject = getattr(importlib.import_module(module), name)()
        measure.probe(subject, loop)
    except Exception as problem:
        say(variant=key, unusable=_in_words(problem))
        return None
    return subject


def _in_words(problem: Exception) -> str:
    return str(problem) if isinstance(problem, Unusable) else f"{type(problem).__name__}: {problem}"


def _versions(packages: list[str]) -> dict[str, str]:
    found = {}
    for name in {*INTERESTING, *packages}:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if "otel-asyncio" in found:
        found["step hook"] = importlib.import_module("otel_asyncio.observe.flavour").FLAVOUR
    return found


def say(**finding: Any) -> None:
    """Hand one finding to the process that draws the table."""
    print(json.dumps(finding), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variants", nargs="+")
    parser.add_argument("--loop", required=True)
    parser.add_argument("--seconds", type=float, default=2.0, help="for the timing part")
    parser.add_argument("--tasks", type=int, default=1000, help="in a round of the reference workload")
    parser.add_argument("--garbage", type=int, default=20_000, help="tasks of each outcome to leave garbage")
    parser.add_argument("--live", type=int, default=100_000, help="live tasks to weigh")
    return parser.parse_args()


if __name__ == "__main__":
    main()
