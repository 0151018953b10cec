"""Every symptom is visible in a trace, with the line to blame; what is done right shows none.

Each program of `examples/symptoms` runs in a fresh process, as a reader would run it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples" / "symptoms"


class Seen(NamedTuple):
    """A span that the wrong version must have, and the code on the line that an attribute names."""

    span: str
    attributes: dict[str, Any] = {}
    lines: dict[str, str] = {}
    links: tuple[str, ...] = ()


WRONG: dict[str, tuple[Seen, ...]] = {
    "hangs": (Seen("asyncio.stuck", {"asyncio.problem": "stuck"}, {"code.line.number": "await answer"}),),
    "swallowed_cancel": (
        Seen(
            "cancel stubborn",
            {"asyncio.cancel.outcome": "suppressed", "asyncio.problem": "cancel_suppressed"},
            {"asyncio.cancel.by.line": "task.cancel()"},
        ),
    ),
    "who_cancelled": (
        Seen(
            "cancel fetch",
            {
                "asyncio.cancel.origin": "explicit",
                "asyncio.cancel.outcome": "delivered",
                "asyncio.await.target": "asyncio.sleep",
            },
            {"asyncio.cancel.by.line": "task.cancel()", "asyncio.cancel.at.line": "await asyncio.sleep(10)"},
            ("canceller",),
        ),
    ),
    "which_timeout": (
        Seen(
            "timeout load",
            {"asyncio.timeout.outcome": "raised", "asyncio.problem": "timeout"},
            {"code.line.number": "async with asyncio.timeout(5), asyncio.timeout(0.2):"},
        ),
        Seen("task load", {"asyncio.task.outcome": "timeout"}),
    ),
    "timeout_leaks": (Seen("timeout wrong", {"asyncio.timeout.api": "asyncio.timeout"}),),
    "blocking_call": (Seen("block .*", {"asyncio.problem": "loop_blocked"}, {"code.line.number": "time.sleep(0.5)"}),),
    "never_retrieved": (
        Seen(
            "asyncio.exception_never_retrieved",
            {"error.type": "ValueError"},
            {"asyncio.task.created.line": "asyncio.create_task(save())"},
        ),
    ),
    "never_awaited": (
        Seen(
            "asyncio.coroutine_never_awaited",
            {"asyncio.problem": "coroutine_never_awaited"},
            {"code.line.number": "save(order)"},
        ),
        Seen(
            "asyncio.coroutine_never_awaited",
            {"asyncio.problem": "coroutine_never_awaited"},
            {"code.line.number": "letters = [write(order)"},
        ),
    ),
    "fire_and_forget": (
        Seen(
            "task send_mail",
            {"asyncio.problem": "task_destroyed_pending", "asyncio.task.outcome": "destroyed"},
            {"asyncio.task.created.line": "asyncio.create_task(send_mail())"},
        ),
    ),
    "left_open": (
        Seen(
            "asyncio.asyncgen_not_closed",
            {"asyncio.problem": "asyncgen_not_closed"},
            {"code.line.number": "async for number in rows():"},
        ),
    ),
    "unclosed_session": (
        Seen(
            "asyncio.resource_not_closed",
            {"asyncio.problem": "resource_not_closed", "code.function.name": "__main__.fetch"},
        ),
    ),
    "unbounded": (
        Seen(
            "asyncio.task_growth",
            {"asyncio.problem": "task_growth"},
            {"code.line.number": "task = asyncio.create_task(store(order, connection))"},
        ),
    ),
    "nested_run": (
        Seen("asyncio.nested_run", {"asyncio.problem": "nested_run"}, {"code.line.number": "sum(asyncio.run(each)"}),
    ),
    "loop_closed": (
        Seen(
            "asyncio.loop_closed",
            {"asyncio.problem": "loop_closed"},
            {"code.line.number": "run_coroutine_threadsafe", "asyncio.loop.closed.line": "loop.close()"},
        ),
    ),
    "wrong_loop": (
        Seen("asyncio.wrong_loop", {"asyncio.problem": "wrong_loop"}, {"code.line.number": "print(await future)"}),
    ),
    "order": (Seen("task audit", {"asyncio.task.steps": 1}),),
    "race": (Seen("task Account.deposit"), Seen("await asyncio.sleep")),
    "deadlock": (Seen("asyncio.deadlock", {"asyncio.problem": "deadlock"}),),
    "submitted_and_waited": (
        Seen("block .*", {"asyncio.problem": "loop_blocked"}, {"code.line.number": "future.result(timeout=0.5)"}),
    ),
    "refuses_to_die": (
        Seen("asyncio.shutdown", {"asyncio.shutdown.cancelled": 2}),
        Seen("cancel stubborn", {"asyncio.cancel.origin": "shutdown"}),
    ),
    "saturated_pool": (
        Seen("executor read_file", {"asyncio.executor.kind": "thread"}),
        Seen(".*", {"asyncio.problem": "executor_saturated"}),
    ),
    "sibling_failed": (Seen("cancel load", {"asyncio.cancel.origin": "task_group"}, {}, ("sibling_failure",)),),
    "contended_lock": (
        Seen(
            "await Lock.acquire",
            {"asyncio.resource.type": "Lock"},
            {"code.line.number": "async with self.lock:", "asyncio.resource.holder.line": "async with self.lock:"},
            ("holder",),
        ),
    ),
    "starved": (Seen("task victim"),),
}


def run(program: str, version: str, loop_kind: str) -> list[dict[str, Any]]:
    command = [sys.executable, str(EXAMPLES / f"{program}.py"), version, "--json"]
    command += ["--uvloop"] if loop_kind == "uvloop" else []
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def matches(span: dict[str, Any], seen: Seen, source: list[str]) -> bool:
    attributes = span["attributes"]
    return (
        re.fullmatch(seen.span, span["name"]) is not None
        and all(attributes.get(key) == value for key, value in seen.attributes.items())
        and all(text in source[attributes.get(key, 0) - 1] for key, text in seen.lines.items())
        and set(seen.links) <= {link.get("asyncio.link.type") for link in span["links"]}
    )


@pytest.mark.parametrize("program", WRONG)
def test_the_wrong_pattern_shows_the_symptom(program: str, loop_kind: str) -> None:
    spans = run(program, "wrong", loop_kind)
    source = (EXAMPLES / f"{program}.py").read_text(encoding="utf-8").splitlines()
    for seen in WRONG[program]:
        assert any(matches(span, seen, source) for span in spans), (seen, spans)


@pytest.mark.parametrize("program", WRONG)
def test_the_corrected_pattern_shows_none(program: str, loop_kind: str) -> None:
    spans = run(program, "right", loop_kind)
    assert spans
    assert [span for span in spans if "asyncio.problem" in span["attributes"]] == []


def test_every_program_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} - {"_show"} == set(WRONG)
