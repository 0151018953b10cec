"""One command, one table: what watching asyncio tasks costs, with this project and with its peers.

    python3 benchmarks/run.py [--quick] [--no-peers] [--python PATH] [--json FILE]

Needs nothing but a Python to start; environments are made in the cache directory, never in the checkout.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import budgets
import report
from environments import Failed, Interpreter, clean_environ, prepare
from figures import Row
from variants import BY_KEY, LINE_UPS, LOOPS
from workloads import REFERENCE

WORKER = Path(__file__).with_name("worker.py")

Rows = dict[tuple[str, str], Row]


@dataclass(frozen=True)
class Effort:
    """How long and how much: seconds of timing a process, tasks for the garbage and memory counts."""

    seconds: float
    garbage: int
    live: int

    def arguments(self) -> list[str]:
        """The worker's options."""
        return [f"--seconds={self.seconds}", f"--garbage={self.garbage}", f"--live={self.live}"]


FULL = Effort(seconds=15, garbage=20_000, live=100_000)
QUICK = Effort(seconds=1, garbage=2_000, live=10_000)


def main() -> int:
    """Prepare, measure, print; 1 if a promise is broken and `--check` asked to know."""
    options = _arguments()
    try:
        interpreter = Interpreter.at(options.python)
        where = report.machine(interpreter.name)
        if options.reference:
            os.environ["OTEL_ASYNCIO_COMPILED"] = "0"
        rows = measure_all(interpreter, QUICK if options.quick else FULL, peers=not options.no_peers)
    except Failed as problem:
        print(problem, file=sys.stderr)
        return 2
    found = budgets.checks(rows)
    print(report.machine_line(where, rows), report.table(rows), report.budgets(rows, found), sep="\n\n")
    if options.json:
        options.json.write_text(json.dumps(report.as_json(where, rows, found), indent=1) + "\n")
    return int(options.check and any(check.kept is not True for check in found))


def measure_all(interpreter: Interpreter, effort: Effort, peers: bool) -> Rows:
    """Every line-up on every loop, one process at a time; the two loops of a line-up follow each other."""
    chosen = [line_up for line_up in LINE_UPS if peers or not BY_KEY[line_up[0]].is_peer]
    packages = dict.fromkeys(BY_KEY[line_up[0]].package for line_up in chosen)
    environments = {package: prepare(interpreter, package) for package in packages}
    rows: Rows = {}
    for line_up in chosen:
        python, problems = environments[BY_KEY[line_up[0]].package]
        for loop in LOOPS:
            print(f"measuring {', '.join(line_up)} on {loop}", file=sys.stderr, flush=True)
            for row in measure(python, line_up, loop, effort):
                if problems and "unusable" in row.facts:
                    row.facts["unusable"] = "; ".join(problems)
                rows[row.variant, loop] = row
    return rows


def measure(python: Path, line_up: tuple[str, ...], loop: str, effort: Effort) -> Iterator[Row]:
    """Run one worker and sort its findings into rows."""
    command = [str(python), "-B", str(WORKER), *line_up, "--loop", loop, *effort.arguments()]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_environ())
    findings = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    rows = {key: Row(loop, key) for key in {"bare", *line_up}}
    for finding in findings:
        if "variant" in finding:
            rows[finding["variant"]].facts.update(finding)
    for key in line_up:
        row = rows[key]
        row.bare = rows["bare"].facts
        row.versions = next((finding["versions"] for finding in findings if "versions" in finding), {})
        sweeps = [finding["sweep"] for finding in findings if "sweep" in finding]
        mine = [sweep for sweep in sweeps if row.other in sweep[REFERENCE.key]]
        if len(mine) > 1 and "unusable" not in row.facts:  # one pair, left by a crash, has no spread
            row.sweeps = mine
        if done.returncode:
            row.facts.setdefault("note", _how_it_ended(done))
        yield row


def _how_it_ended(done: subprocess.CompletedProcess[str]) -> str:
    last = done.stderr.strip().rpartition("\n")[2]
    return f"the process ended with {done.returncode}: {last or 'no message'}"


def _arguments() -> argparse.Namespace:
    as_is = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_is)
    parser.add_argument("--quick", action="store_true", help="about a minute once installed")
    parser.add_argument("--reference", action="store_true", help="this project with its step hook in Python")
    parser.add_argument("--no-peers", action="store_true", help="leave out what others make")
    parser.add_argument("--python", default=sys.executable, metavar="PATH", help="measure on this one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="everything measured, raw")
    parser.add_argument("--check", action="store_true", help="exit 1 unless every promise is kept")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
