"""Runs the tour's programs and keeps what they print: `python docs/render.py`, with the package and its extra `cli`.

With `--check` nothing is written: what is there has to be the same, but for times, ids and the length of bars.
"""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent
RENDERED = HERE / "rendered"
ATTEMPTS = 5
"""A machine that is busy with other things adds waits of its own."""

VIEWED = {
    "shop": ("GET /price", "GET /pay", "GET /invoice", "GET /chart"),
    "api": ("GET /report", "GET /balance", "GET /export"),
}
"""Of which programs single traces are shown, those with a span of this name, and of the run only what went wrong."""

SHARED = "around"
"""What the programs import."""

WIDTH, WIDER = 96, 108

HELP = {"help": [], "help-run": ["run"], "help-view": ["view"], "help-demo": ["demo"]}


def command(*words: str, width: int = WIDTH) -> str:
    """What the command prints, streams in one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "PYTHON"))}
    environment = kept | {"COLUMNS": str(width), "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "otel_asyncio", *words], cwd=HERE / "programs", env=environment, text=True,
        encoding="utf-8", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True, timeout=60,
    )  # fmt: skip
    return done.stdout


def reports(program: Path) -> dict[str, str]:
    """What is kept of a program, by name: its output with the report on it, and the traces that are looked at.

    Without the two lines that name the file. What the log says of a line has its whole path, which is another one on
    every machine.
    """
    name, viewed = program.stem, VIEWED.get(program.stem, ())
    with tempfile.TemporaryDirectory() as folder:
        text = command("run", "-o", f"{folder}/spans.jsonl", program.name, width=WIDER if viewed else WIDTH)
        text = text.replace(f"{program.parent}{os.sep}", "")
        text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("otel-asyncio: "))
        text = f"$ otel-asyncio run {program.name}\n{text}"
        if not viewed:
            return {name: text}
        traces = {f"{name}-{span.rpartition('/')[2]}": one_trace(span, folder) for span in viewed}
    return {name: text.partition("\nbars: ")[0], **traces}


def one_trace(span: str, folder: str) -> str:
    """The slowest trace with a span of this name, as `view` draws it."""
    page = command("view", "--name", span, "--slowest", "1", f"{folder}/spans.jsonl", width=WIDER)
    lines = page[page.index("\ntrace ") :].lstrip().split("\n\n")[0]
    return f"$ otel-asyncio view --name '{span}' --slowest 1 spans.jsonl\n\n{lines}\n"


def makers() -> list[Callable[[], dict[str, str]]]:
    """What makes the files, by name."""
    helps = [partial(help_of, name) for name in HELP]
    return [*(partial(reports, program) for program in programs()), *helps]


def help_of(name: str) -> dict[str, str]:
    return {name: command(*HELP[name], "--help")}


def programs() -> list[Path]:
    return sorted(path for path in (HERE / "programs").glob("*.py") if path.stem != SHARED)


def structure(text: str) -> list[str]:
    """What has to stay the same from run to run, and from Python to Python: one line for each paragraph.

    Of other people's packages nothing has to: neither their lines nor their tasks.
    """
    text = re.sub(r"\d[\d.,]*\s+(ns|µs|ms|s)\b", "TIME", text)
    text = re.sub(r"\b[0-9a-f]{8,32}\b", "ID", re.sub(r"Task-\d+", "Task-N", text))
    text = re.sub(r"│[█▒━─ ]*│", "│BAR│", text)
    text = re.sub(r"-(\w) \w+, --", r"-\1, --", text)  # argparse before 3.13 says `-o FILE, --output FILE`
    paragraphs = text.split("\n\n")
    if any(text.startswith(f"$ otel-asyncio run {name}.py") for name in VIEWED):
        # What is said while it runs comes in any order; how much there was depends on how fast the machine is.
        spoken = sorted(paragraphs[0].split())
        paragraphs = [" ".join(spoken), *(_without_others(part) for part in paragraphs[2:])]
    elif text.startswith("$ otel-asyncio view"):
        kept = (line for line in text.splitlines() if "─ task " not in line)
        paragraphs = [_without_others("\n".join(kept))]
    # The rows of the tables are in the order of times.
    return [" ".join(sorted(part.split()) if part.startswith(("Who", "What")) else part.split()) for part in paragraphs]


def _without_others(text: str) -> str:
    """Without the lines of packages, what was cut off, and how often."""
    ours = "|".join(program.stem for program in programs())
    text = re.sub(rf"\b(?!(?:{ours})\.py)[\w/]+\.py:\d+", "OTHER", " ".join(text.split()))
    text = re.sub(r"\S* OTHER → |  \d+×| \d+× ", "", text)
    return re.sub(r" \S*…", "", text)


def differences(found: dict[str, str]) -> str:
    """Where what is kept differs from what was found now; empty if nowhere."""
    lines: list[str] = []
    for name, text in found.items():
        path = RENDERED / f"{name}.txt"
        kept = path.read_text(encoding="utf-8") if path.exists() else ""
        old, new = structure(kept), structure(text)
        lines += difflib.unified_diff(old, new, str(path), "now", lineterm="")
    return "\n".join(lines)


def check(make: Callable[[], dict[str, str]]) -> str:
    """Where what is kept is not current; empty if it is."""
    wrong = ""
    for _ in range(ATTEMPTS):
        wrong = differences(make())
        if not wrong:
            break
    return wrong


def main() -> int:
    """Write, or check."""
    if "--check" in sys.argv:
        wrong = "\n".join(filter(None, map(check, makers())))
        if wrong:
            print(wrong, "docs/rendered is not current: python docs/render.py", sep="\n")
        return bool(wrong)
    RENDERED.mkdir(exist_ok=True)
    for make in makers():
        for name, text in make().items():
            (RENDERED / f"{name}.txt").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
