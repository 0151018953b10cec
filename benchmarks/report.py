"""The one table, with the machine it was measured on and the reasons for every gap."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from budgets import Check, Rows
from figures import REFERENCE_US, STEP, Row, Spread
from variants import BY_KEY, LOOPS, VARIANTS
from workloads import WORKLOADS

COLUMNS = {workload.key: workload.title for workload in WORKLOADS} | {STEP: "one more step"}
WEIGHTS = ("spans a task", "cyclic objects a task", "bytes a live task")
HEADINGS = ("loop", "variant", *COLUMNS.values(), *WEIGHTS)
_SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def machine(python: str) -> dict[str, Any]:
    """Where and when: without it no number of the table means anything."""
    return {
        "date": date.today().isoformat(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": python,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def machine_line(where: Mapping[str, Any], rows: Rows) -> str:
    """The machine and the versions, in one line. Peers carry their version in their row."""
    versions = next((row.versions for row in rows.values() if not BY_KEY[row.variant].is_peer), {})
    named = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return (
        f"{where['date']} · {where['cpu']}, {where['cores']} cores, load {where['load']} · "
        f"{where['system']} · {where['python']} · {named}"
    )


def table(rows: Rows) -> str:
    """The table and the footnotes under it."""
    notes: list[str] = []
    lines = [_line(HEADINGS), _line(["---"] * 2 + ["--:"] * (len(HEADINGS) - 2))]
    for loop in LOOPS:
        present = [rows[variant.key, loop] for variant in VARIANTS if (variant.key, loop) in rows]
        lines += [_line(_cells(row, notes)) for row in present]
    numbered = [f"{_mark(number)} {note}" for number, note in enumerate(notes, 1)]
    return "\n".join([*lines, "", *(f"{note}  " for note in numbered)])


def budgets(rows: Rows, found: list[Check]) -> str:
    """The promises, scaled to the machine they were written for."""
    scales = sorted(row.scale() for row in rows.values() if row.sweeps)
    scaled = f"Scaled to a machine whose bare task of 3 `sleep(0)` takes {REFERENCE_US} µs on asyncio"
    if scales:
        scaled += f"; here it took {scales[0]:.2f} to {scales[-1]:.2f} of that"
    heading = ["| loop | promise | limit | here | |", "| --- | --- | --: | --: | --- |"]
    return "\n".join([scaled, "", *heading, *map(str, found)])


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _mark(number: int) -> str:
    return str(number).translate(_SUPERSCRIPT)


def _note(text: str, notes: list[str]) -> str:
    """The footnote's mark; equal texts share one."""
    if text not in notes:
        notes.append(text)
    return _mark(notes.index(text) + 1)


def _cells(row: Row, notes: list[str]) -> list[str]:
    variant = BY_KEY[row.variant]
    title = variant.title.format(f"{variant.package} {row.versions.get(variant.package, '')}".strip())
    if reason := row.facts.get("unusable") or row.facts.get("note"):
        title += _note(reason, notes)
    times = [_time(row, column) if row.sweeps else "–" for column in COLUMNS]
    return [row.loop, title, *times, _spans(row), _garbage(row), _bytes(row)]


def _time(row: Row, column: str) -> str:
    if row.variant == "bare":
        return f"{row.bare_cost(column).median:.2f} µs · {_times(row.ratio(column))}"
    added = row.added(column)
    return f"{added.median:+.2f} µs ({added.low:+.2f} … {added.high:+.2f}) · {row.ratio(column).median:.2f}×"


def _times(ratio: Spread) -> str:
    return f"{ratio.low:.2f} … {ratio.high:.2f}×"


def _spans(row: Row) -> str:
    spans = row.facts.get("spans_per_task")
    return "–" if spans is None else f"{spans:.2f}"


def _garbage(row: Row) -> str:
    more = row.more_garbage()
    return "–" if more is None else f"{more / row.garbage_tasks():.1f}" if more else "0"


def _bytes(row: Row) -> str:
    if "bytes" not in row.facts:
        return "–"
    if row.variant == "bare":
        return f"{row.facts['bytes']:,.0f}"
    return f"{row.facts['bytes'] - row.bare['bytes']:+,.0f}"


def as_json(where: Mapping[str, Any], rows: Rows, found: list[Check]) -> dict[str, Any]:
    """Everything raw, so that another question can be answered without another run."""
    return {
        "machine": dict(where),
        "rows": [vars(row) for row in rows.values()],
        "checks": [vars(check) | {"kept": check.kept} for check in found],
    }
