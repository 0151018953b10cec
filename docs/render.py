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
from pathlib import Path

HERE = Path(__file__).parent
RENDERED = HERE / "rendered"
ATTEMPTS = 3
"""A machine that is busy with other things adds waits of its own."""

VIEWED = {"service": ("--name", "cancel answer")}
"""Of which programs single traces are looked at after the run, and how they are asked for."""

HELP = {"help": [], "help-run": ["run"], "help-view": ["view"], "help-demo": ["demo"]}


def command(*words: str) -> str:
    """What the command prints, streams in one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "PYTHON"))}
    environment = kept | {"COLUMNS": "96", "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "otel_asyncio", *words], cwd=HERE / "programs", env=environment, text=True,
        encoding="utf-8", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True, timeout=60,
    )  # fmt: skip
    return done.stdout


def report(program: Path) -> str:
    """The program's output and the report on it, without the two lines that name the file.

    What the log says of a line has its whole path, which is another one on every machine.
    """
    with tempfile.TemporaryDirectory() as folder:
        text = command("run", "-o", f"{folder}/spans.jsonl", program.name)
        if (asked := VIEWED.get(program.stem)) is not None:
            words = " ".join(f"'{word}'" if " " in word else word for word in asked)
            text += f"\n$ otel-asyncio view {words} spans.jsonl\n" + command("view", *asked, f"{folder}/spans.jsonl")
    text = text.replace(f"{program.parent}{os.sep}", "")
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("otel-asyncio: "))


def rendered() -> dict[str, str]:
    """All files, by name."""
    reports = {program.stem: f"$ otel-asyncio run {program.name}\n{report(program)}" for program in programs()}
    return reports | {name: command(*words, "--help") for name, words in HELP.items()}


def programs() -> list[Path]:
    return sorted((HERE / "programs").glob("*.py"))


def structure(text: str) -> list[str]:
    """What has to stay the same from run to run, and from Python to Python: one line for each paragraph."""
    text = re.sub(r"\d[\d.,]*\s+(ns|µs|ms|s)\b", "TIME", text)
    text = re.sub(r"\b[0-9a-f]{8,32}\b", "ID", re.sub(r"Task-\d+", "Task-N", text))
    text = re.sub(r"│[█▒─━ ]*│", "│BAR│", text)
    text = re.sub(r"-(\w) \w+, --", r"-\1, --", text)  # argparse before 3.13 says `-o FILE, --output FILE`
    paragraphs = text.split("\n\n")
    # The rows of the tables are in the order of times.
    return [" ".join(sorted(part.split()) if part.startswith(("Who", "What")) else part.split()) for part in paragraphs]


def differences(found: dict[str, str]) -> str:
    """Where what is kept differs from what was found now; empty if nowhere."""
    lines: list[str] = []
    for name, text in found.items():
        path = RENDERED / f"{name}.txt"
        kept = path.read_text(encoding="utf-8") if path.exists() else ""
        old, new = structure(kept), structure(text)
        lines += difflib.unified_diff(old, new, str(path), "now", lineterm="")
    return "\n".join(lines)


def check() -> int:
    """0 if what is kept is current."""
    for _ in range(ATTEMPTS):
        wrong = differences(rendered())
        if not wrong:
            return 0
    print(wrong)
    print("docs/rendered is not current: python docs/render.py")
    return 1


def main() -> int:
    """Write, or check."""
    if "--check" in sys.argv:
        return check()
    RENDERED.mkdir(exist_ok=True)
    for name, text in rendered().items():
        (RENDERED / f"{name}.txt").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
