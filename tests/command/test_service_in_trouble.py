"""The tour's service: from the three traces alone, who cancelled what, why and where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from otel_asyncio.report.otlp import Span, read_spans

from . import started
from .started import COMMAND

PROGRAM = Path(__file__).parents[2] / "docs" / "programs" / "service.py"


def line(code: str) -> int:
    """The number of the first line with this code."""
    return next(number for number, text in enumerate(PROGRAM.read_text().splitlines(), 1) if code in text)


@pytest.fixture(scope="module")
def traces(tmp_path_factory: Any) -> dict[str, dict[str, Span]]:
    """The spans of each request, by name, in the order of the requests."""
    folder = tmp_path_factory.mktemp("service")
    ended = started.run(*COMMAND, "run", "--no-report", "-o", folder / "spans.jsonl", PROGRAM, folder=folder)
    assert (ended.status, ended.out) == (0, "answered: 504 nothing\n"), ended.err
    found: dict[str, dict[str, Span]] = {}
    for span in sorted(read_spans((folder / "spans.jsonl").read_bytes().splitlines(), []), key=lambda span: span.start):
        found.setdefault(span.trace_id, {})[span.name] = span
    requests = [spans for spans in found.values() if "task serve" in spans]
    return dict(zip(("hung up", "timed out", "shut down"), requests, strict=True))


def said(span: Span) -> dict[str, Any]:
    return dict(span.attributes)


def test_a_client_that_hangs_up(traces: dict[str, dict[str, Span]]) -> None:
    spans = traces["hung up"]
    cancel = said(spans["cancel answer"])
    assert cancel["asyncio.cancel.origin"] == "explicit"
    assert (
        cancel["asyncio.cancel.expected"] is True
    )  # whoever made the task wants it no more: nobody is to look at that
    assert (cancel["asyncio.cancel.by.function"], cancel["asyncio.cancel.by.line"]) == (
        "serve",
        line("        request.cancel()"),
    )
    assert cancel["asyncio.cancel.at.line"] == line("return await reader.readline()")
    assert cancel["asyncio.await.target"] == "StreamReader.readline"
    assert said(spans["task hung_up"])["asyncio.task.outcome"] == "success"  # it is the client that went
    assert not [span for span in spans.values() if "asyncio.problem" in said(span)]


def test_a_database_that_does_not_answer(traces: dict[str, dict[str, Span]]) -> None:
    spans = traces["timed out"]
    timeout = said(spans["timeout query"])
    assert timeout["asyncio.problem"] == "timeout"
    assert timeout["asyncio.timeout.delay"] == pytest.approx(0.3, abs=0.001)
    assert timeout["code.line.number"] == line("async with asyncio.timeout(patience)")
    assert timeout["asyncio.await.target"] == "StreamReader.readline"
    assert f", line {line('return await reader.readline()')}," in timeout["code.stacktrace"]
    task = said(spans["task answer"])
    assert task["asyncio.task.outcome"] == "success"  # it answered 504
    assert task["asyncio.task.idle_time"] > 10 * task["asyncio.task.busy_time"]  # slow was the answer, not the loop
    assert "cancel answer" not in spans


def test_a_shutdown_in_the_middle_of_it(traces: dict[str, dict[str, Span]]) -> None:
    spans = traces["shut down"]
    cancel = said(spans["cancel answer"])
    assert cancel["asyncio.cancel.origin"] == "signal"
    by = max(
        number for number, text in enumerate(PROGRAM.read_text().splitlines(), 1) if text == "        request.cancel()"
    )
    assert (cancel["asyncio.cancel.by.function"], cancel["asyncio.cancel.by.line"]) == ("stop", by)
    assert cancel["asyncio.cancel.at.line"] == line("return await reader.readline()")
    assert cancel["asyncio.cancel.outcome"] == "delivered"
    assert said(spans["task answer"])["asyncio.task.outcome"] == "cancellation"
