"""Instructions that a task and a step take, counted by callgrind: a figure that no busy machine changes.

    python benchmarks/instructions.py            compare with benchmarks/instructions.json
    python benchmarks/instructions.py --record   write that file anew, after a change that is meant to cost or to save

In an environment that has this project and its extra `test`; valgrind is got from Debian where it is missing and that
can be done. Exit status 1: something takes more than the margin more than is recorded; 77: it could not be compared.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from measure import loop_with
from subjects import Recorded, Subject, Unsampled
from variants import LOOPS
from workloads import LONG, REFERENCE, Workload, run_tasks

RECORDED = Path(__file__).with_suffix(".json")
NOT_RUN = 77
MARGIN = 0.10
AGAIN = 2
"""What seems dearer is counted again: a recorded task on uvloop varies by as much as the margin."""

TASKS = 100
SUBJECTS: dict[str, type[Subject]] = {"bare": Subject, "unsampled": Unsampled, "recorded": Recorded}
FLAVOURS = {"python": "0", "compiled": "1"}
SIZES = {"once": (REFERENCE, TASKS), "twice": (REFERENCE, 2 * TASKS), "long": (LONG, TASKS)}
"""What is counted; the differences are one task of three `sleep(0)`, and one more step."""

PACKAGES = ("opentelemetry-sdk", "uvloop")
QUIET = {
    # Everything takes long under valgrind, more so beside other work: a wait would become a span, a step a block.
    "OTEL_PYTHON_ASYNCIO_AWAIT_THRESHOLD": "3600",
    "OTEL_PYTHON_ASYNCIO_BLOCK_THRESHOLD": "off",
    "OTEL_PYTHON_ASYNCIO_STUCK_AFTER": "off",
    "OTEL_BSP_SCHEDULE_DELAY": "3600000",  # or the exporter's thread takes part at times
    "PYTHONHASHSEED": "0",
}
Counts = dict[str, dict[str, int]]
"""A subject in a flavour on a loop: the instructions of a task and of a step."""


def main() -> int:
    options = _arguments()
    if options.worker:
        return _work(Path(options.worker))
    if reason := _missing():
        print(f"NOT COMPARED: {reason}")
        return NOT_RUN
    counts = _count_all()
    if options.record:
        RECORDED.write_text(json.dumps(_here() | {"counts": counts}, indent=1) + "\n")
        return 0
    status = _compare(counts)
    for _ in range(AGAIN):
        if status == 1:
            counts = _least(counts, _count_all())
            status = _compare(counts)
    return status


def _count_all() -> Counts:
    return {name: count for flavour in FLAVOURS for name, count in _count(flavour).items()}


def _least(one: Counts, other: Counts) -> Counts:
    return {name: {what: min(one[name][what], other[name][what]) for what in one[name]} for name in one}


def _here() -> dict[str, Any]:
    """What the counts hold for."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "machine": platform.machine(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }


def _missing() -> str | None:
    """Why nothing can be counted here."""
    from otel_asyncio.observe import flavour

    if flavour.FLAVOUR != "compiled":
        return f"the compiled step hook is not there: {flavour.reason}"
    if shutil.which("valgrind"):
        return None
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return "there is no valgrind (on Debian: apt-get install valgrind)"
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "valgrind"]
    for command in (["apt-get", "update", "-q"], install):
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        )
        if done.returncode:
            return f"{' '.join(command)}: {(done.stderr.strip() or done.stdout.strip()).rpartition(chr(10))[2]}"
    return None


def _count(flavour: str) -> Counts:
    """One interpreter under callgrind, which forks for each thing that is counted: its start takes the longest."""
    with tempfile.TemporaryDirectory(prefix="otel-asyncio-instructions-") as name:
        folder = Path(name)
        command = ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={folder}/%p.callgrind"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        environment |= QUIET | {"OTEL_ASYNCIO_COMPILED": FLAVOURS[flavour]}
        subprocess.run([*command, sys.executable, "-B", __file__, "--worker", folder], check=True, env=environment)
        totals = {path.stem: _total(folder / f"{path.read_text()}.callgrind") for path in folder.glob("*.pid")}
    counts = {}
    for loop in LOOPS:
        for subject in SUBJECTS:
            once, twice, long = (totals[f"{loop} {subject} {size}"] for size in SIZES)
            step = (long - once) / (LONG.waits - REFERENCE.waits) / TASKS
            counts[_name(loop, subject, flavour)] = {"task": round((twice - once) / TASKS), "step": round(step)}
    return counts


def _name(loop: str, subject: str, flavour: str) -> str:
    return f"{loop}, {subject}" if subject == "bare" else f"{loop}, {subject}, {flavour}"


def _total(file: Path) -> int:
    found = re.search(r"^(?:totals|summary): (\d+)", file.read_text(), re.MULTILINE)
    assert found is not None, file
    return int(found[1])


def _work(folder: Path) -> int:
    """Under callgrind: a child for each count, which starts from the same heap as the others."""
    import uvloop  # noqa: F401 - and the package, once for all children

    from otel_asyncio.observe import flavour

    assert os.environ["OTEL_ASYNCIO_COMPILED"] == FLAVOURS[flavour.FLAVOUR]
    Recorded().close()
    gc.disable()
    for loop in LOOPS:
        for subject in SUBJECTS:
            for size, (workload, tasks) in SIZES.items():
                if not (child := os.fork()):
                    _run(subject, loop, workload, tasks)
                if os.waitpid(child, 0)[1]:
                    return 1
                (folder / f"{loop} {subject} {size}.pid").write_text(str(child))
    return 0


def _run(name: str, kind: str, workload: Workload, tasks: int) -> None:
    """Fewer tasks than the batch processor waits for, and no way on from here: nothing is exported or shut down."""
    status = 1
    try:
        subject = SUBJECTS[name]()
        with loop_with(subject, kind) as loop:

            async def inside() -> None:
                surrounding = subject.surrounding()
                surrounding.__enter__()
                await run_tasks(workload.body(), tasks)
                os._exit(0)

            loop.run_until_complete(inside())
    finally:
        os._exit(status)


def _compare(counts: Counts) -> int:
    kept = json.loads(RECORDED.read_text())
    here = _here()
    if any(kept[what] != here[what] for what in ("python", "machine")):
        of, now = (f"{where['python']} on {where['machine']}" for where in (kept, here))
        print(f"NOT COMPARED: the counts are of {of}; this is {now}")
        return NOT_RUN
    if kept["packages"] != here["packages"]:
        print(f"recorded with {kept['packages']}; here are {here['packages']}")
    print(f"| {here['python']} | task of 3 `sleep(0)` | recorded | | one more step | recorded | |")
    print("| --- | --: | --: | --- | --: | --: | --- |")
    dearer = False
    for name, count in counts.items():
        cells = []
        for what, now in count.items():
            before = kept["counts"][name][what]
            verdict = "DEARER" if now > before * (1 + MARGIN) else "cheaper" if now < before * (1 - MARGIN) else ""
            dearer |= verdict == "DEARER"
            cells += [f"{now:,}", f"{before:,}", verdict]
        print(f"| {name} | {' | '.join(cells)} |")
    if dearer:
        print(f"more than {MARGIN:.0%} dearer; if that is meant: python benchmarks/instructions.py --record")
    return int(dearer)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="write down what is counted here")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
