"""The tour's service under load: from the traces alone, who cancelled what, why and where."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from otel_asyncio.report.otlp import Span, read_spans

from . import started
from .started import COMMAND

PROGRAM = Path(__file__).parents[2] / "docs" / "programs" / "api.py"
SERVER = "SERVER"
CUSTOMERS = 20


class Story(NamedTuple):
    """What a trace says of a request that ended early."""

    request: str
    what: str
    why: str
    who: str
    by: int
    """The line that cancelled it, or that owns the deadline."""
    at: str
    """What it waited for."""
    line: int
    """The line it was waiting at."""


class Traces(NamedTuple):
    """All that the service recorded."""

    spans: dict[str, list[Span]]
    said: started.Ended

    def stories(self) -> Iterator[Story]:
        """Of every request that was cancelled or timed out, knowing nothing but the names of attributes."""
        for spans in self.spans.values():
            for request in (span for span in spans if span.kind == SERVER):
                for span in spans:
                    seen = span.attributes
                    if "asyncio.cancel.origin" in seen:
                        yield Story(request.name, "cancelled", *cancelled(seen))
                    elif "asyncio.timeout.api" in seen:
                        yield Story(request.name, "timed out", *timed_out(seen))

    def of(self, request: str) -> list[Span]:
        """The spans of the one request of this name."""
        (spans,) = (spans for spans in self.spans.values() if any(span.name == request for span in spans))
        return spans


def cancelled(seen: Any) -> tuple[str, str, int, str, int]:
    return (
        seen["asyncio.cancel.origin"], seen["asyncio.cancel.by.function"], seen["asyncio.cancel.by.line"],
        seen["asyncio.await.target"], seen["asyncio.cancel.at.line"],
    )  # fmt: skip


def timed_out(seen: Any) -> tuple[str, str, int, str, int]:
    innermost = [entry for entry in seen["code.stacktrace"].splitlines() if "/asyncio/" not in entry][-1]
    return (
        f"after {seen['asyncio.timeout.delay']:.1f} s", seen["code.function.name"], seen["code.line.number"],
        seen["asyncio.await.target"], int(innermost.partition(", line ")[2].partition(",")[0]),
    )  # fmt: skip


def line(code: str) -> int:
    """The number of the only line with this code."""
    (number,) = (number for number, text in enumerate(PROGRAM.read_text().splitlines(), 1) if code in text)
    return number


@pytest.fixture(scope="module")
def traces(tmp_path_factory: Any) -> Traces:
    folder = tmp_path_factory.mktemp("api")
    command = (*COMMAND, "run", "--no-report", "-o", folder / "spans.jsonl", PROGRAM)
    ended = started.run(*command, folder=folder, OTEL_PYTHON_ASYNCIO_BLOCK_THRESHOLD="2000")  # the machine is crowded
    assert (ended.status, ended.out) == (0, "balance: 504\nexport: no answer\n"), ended.err
    found: dict[str, list[Span]] = {}
    for span in read_spans((folder / "spans.jsonl").read_bytes().splitlines(), []):
        found.setdefault(span.trace_id, []).append(span)
    return Traces(found, ended)


def test_three_of_hundreds_of_requests_ended_early_and_each_says_who_why_and_where(traces: Traces) -> None:
    stories = {story.request: story for story in traces.stories()}
    waiting = "StreamReader.readline", line("return await reader.readline()")
    gone = stories.pop("GET /report")
    assert gone[:4] == ("GET /report", "cancelled", "explicit", "RequestHandler.connection_lost")  # the client went
    assert gone[5:] == waiting
    assert stories == {
        "GET /balance": (
            "GET /balance",
            "timed out",
            "after 0.3 s",
            "__main__.query",
            line("asyncio.timeout("),
            *waiting,
        ),
        "GET /export": ("GET /export", "cancelled", "signal", "stop", line("task.cancel()"), *waiting),
    }
    assert len(list(traces.stories())) == 3


def test_the_load_was_one(traces: Traces) -> None:
    names = [span.name for spans in traces.spans.values() for span in spans if span.kind == SERVER]
    assert names.count("GET /page") >= 6 * CUSTOMERS
    served = [span for spans in traces.spans.values() for span in spans if span.name == "task RequestHandler.start"]
    assert len(served) >= CUSTOMERS


def test_the_deadline_is_the_only_problem(traces: Traces) -> None:
    said = [span for spans in traces.spans.values() for span in spans if "asyncio.problem" in span.attributes]
    assert [(span.name, span.attributes["asyncio.problem"]) for span in said] == [("timeout query", "timeout")]


def test_a_client_that_hangs_up_is_nobodys_fault(traces: Traces) -> None:
    """The protocol that began the connection's task ends it: no alert for that."""
    (cancel,) = (span for span in traces.of("GET /report") if span.name.startswith("cancel "))
    assert cancel.attributes["asyncio.cancel.expected"] is True
    assert cancel.attributes["asyncio.cancel.outcome"] == "delivered"


def test_a_shutdown_in_the_middle_of_a_request_is_told(traces: Traces) -> None:
    (cancel,) = (span for span in traces.of("GET /export") if span.name.startswith("cancel "))
    assert cancel.attributes["asyncio.cancel.expected"] is False
    assert cancel.attributes["asyncio.cancel.outcome"] == "delivered"


def test_the_split_says_that_the_answer_was_slow_and_not_the_loop(traces: Traces) -> None:
    for request in ("GET /report", "GET /balance", "GET /export"):
        (task,) = (span.attributes for span in traces.of(request) if span.name == "task RequestHandler._handle_request")
        assert task["asyncio.task.idle_time"] > task["asyncio.task.busy_time"]
