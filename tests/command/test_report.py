"""What a reader finds on the page: spans written after the contract, and what is said about them."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest
from rich.console import Console

from otel_asyncio.report.advice import ADVICE, advice
from otel_asyncio.report.otlp import BrokenLine, read_spans, spans_of_request
from otel_asyncio.report.page import make_page
from otel_asyncio.report.selection import Selection

from . import contract
from .contract import Trace

PROBLEMS = (
    "loop_blocked timeout cancel_suppressed stuck deadlock exception_never_retrieved task_destroyed_pending "
    "coroutine_never_awaited asyncgen_not_closed resource_not_closed loop_already_running nested_run loop_closed "
    "wrong_loop wrong_thread task_growth executor_saturated"
).split()


def page(*traces: Trace, selection: Selection | None = None, slowest: int = 3, width: int = 100, **options: Any) -> str:
    lines = [trace.line.encode() for trace in traces]
    console = Console(file=io.StringIO(), width=width, **options)
    console.print(make_page(lambda traces: read_spans(lines, [], "", traces), selection, slowest))
    return console.file.getvalue()  # type: ignore[attr-defined]


def line_with(text: str, *parts: str) -> str:
    found = [line for line in text.splitlines() if all(part in line for part in parts)]
    assert found, (parts, text)
    return found[0]


@pytest.mark.parametrize("word", PROBLEMS)
def test_every_problem_of_the_contract_has_a_sentence(word: str) -> None:
    assert advice(word).endswith(".")


def test_there_is_no_sentence_for_what_is_no_problem() -> None:
    assert set(ADVICE) - set(PROBLEMS) == {"error", "cancelled"}


def test_a_blocked_loop_names_the_line_and_what_to_do() -> None:
    text = page(contract.blocked())
    assert "/srv/shop.py:41" in line_with(text, "✗ loop_blocked", "draw_page")
    assert "asyncio.to_thread" in text


def test_a_blocked_loop_tells_how_many_waited() -> None:
    assert "3 ready tasks waited" in page(contract.blocked())


def test_a_timeout_names_its_scope_and_what_it_waited_for() -> None:
    text = page(contract.timed_out())
    assert "/srv/shop.py:58" in line_with(text, "✗ timeout", "pay")
    assert "ask_bank shop.py:22" in line_with(text, "in handle")
    assert "250 ms allowed" in text


def test_a_cancellation_names_who_asked_for_it_and_where_it_hit() -> None:
    text = page(contract.cancelled())
    assert "/srv/shop.py:99" in line_with(text, "! cancelled")
    assert "explicit, by answer · it hit shop.py:82" in text
    assert "by answer" in line_with(text, "cancel handle", "│")


def test_an_expected_cancellation_is_no_finding() -> None:
    trace = Trace()
    task = trace.task("task race", 0, 10, outcome="cancellation")
    trace.span("cancel race", 9, 10, task, asyncio__cancel__origin="explicit", asyncio__cancel__expected=True)
    assert "! cancelled" not in page(trace)


def test_a_lock_names_its_holder() -> None:
    assert "held at shop.py:37 by Task-41" in line_with(
        page(contract.locked(), width=120), "await Lock.acquire", "│", "shop.py:36"
    )


def test_what_was_waited_for_stands_in_the_totals() -> None:
    text = page(contract.locked()).partition("What was waited for")[2]
    assert line_with(text, "Lock.acquire").split() == [
        "await",
        "Lock.acquire",
        "1",
        "282",
        "ms",
        "282",
        "ms",
        "shop.py:36",
    ]


def test_every_lock_of_a_deadlock_is_named() -> None:
    text = page(contract.others())
    assert "→ transfer waits for lock B (bank.py:12)" in text
    assert "→ refund waits for lock A (bank.py:31)" in text


def test_a_problem_seen_often_is_one_entry() -> None:
    text = page(*(contract.blocked() for _ in range(4)))
    assert text.count("✗ loop_blocked  draw_page") == 1
    assert "4×" in line_with(text, "✗ loop_blocked  draw_page")
    assert "600 ms in all" in text


def test_a_healthy_program_has_no_problems() -> None:
    trace = Trace()
    trace.task("task main", 0, 10, busy=2, scheduled=3)
    text = page(trace)
    assert "✓ no problems" in text
    assert "✗" not in text


def test_a_failed_task_names_the_exception() -> None:
    text = page(contract.timed_out())
    assert "the bank did not answer" in text.partition("Exceptions and cancellations")[2]


def bar_of(text: str, name: str) -> str:
    return re.search(rf"{re.escape(name)} +│(.*?)│", text)[1]  # type: ignore[index]


def test_a_bar_shows_the_shares_of_busy_scheduled_and_idle() -> None:
    trace = Trace()
    trace.task("task main", 0, 100, busy=50, scheduled=25)
    bar = bar_of(page(trace), "task main")
    assert [bar.count(character) / len(bar) for character in "█▒─"] == pytest.approx([0.5, 0.25, 0.25], abs=0.05)


def test_a_bar_stands_where_its_span_lies_in_the_trace() -> None:
    trace = Trace()
    root = trace.task("task main", 0, 100)
    trace.task("task late", 50, 100, root)
    bar = bar_of(page(trace), "└─ task late")
    assert bar == " " * (len(bar) // 2) + "─" * (len(bar) - len(bar) // 2)


def test_the_shortest_span_has_a_bar() -> None:
    trace = Trace()
    root = trace.task("task main", 0, 100_000)
    trace.task("task short", 99_999.999, 100_000, root)
    assert bar_of(page(trace), "└─ task short").endswith(" ─")


def test_the_trace_of_the_whole_program_comes_after_the_slowest_requests() -> None:
    main, request = Trace(), Trace()
    main.task("task main", 0, 9000, kind="main")
    request.span("GET /", 0, 10, kind=2)
    text = page(main, request, slowest=1)
    assert "GET /" in line_with(text, "trace ")
    assert "trace " + main.trace_id not in text


def test_the_slowest_of_each_kind_are_shown_slowest_first() -> None:
    traces = [Trace() for _ in range(6)]
    for number, trace in enumerate(traces):
        trace.span(f"GET /{number}", 0, number + 1, kind=2)
    traces += [Trace() for _ in range(3)]
    for trace in traces[-3:]:
        trace.span("GET /5", 0, 5.5, kind=2)
    shown = re.findall(r"^trace \w+ (GET /\d)", page(*traces, slowest=2), re.MULTILINE)
    assert shown == ["GET /5", "GET /4"]


def kinds_shown(text: str) -> list[str]:
    return re.findall(r"^trace \w+ (GET /\w+) · (\d+ ms)", text, re.MULTILINE)


def test_a_slow_trace_is_not_shown_beside_a_broken_one_that_is_much_alike() -> None:
    slow = Trace()
    slow.span("GET /pay", 0, 261, kind=2)
    assert kinds_shown(page(slow, contract.timed_out())) == [("GET /pay", "260 ms")]


def test_the_slowest_trace_is_shown_beside_a_broken_one_that_was_quick() -> None:
    slow = Trace()
    slow.span("GET /pay", 0, 900, kind=2)
    assert kinds_shown(page(slow, contract.timed_out())) == [("GET /pay", "260 ms"), ("GET /pay", "900 ms")]


def test_siblings_of_one_name_are_folded() -> None:
    trace = Trace()
    root = trace.task("task main", 0, 1000)
    for number in range(200):
        trace.task("task fetch", number, number + 2 + number % 3, root)
    text = page(trace)
    assert text.count("─ task fetch") == 3
    assert "197 more task fetch, 2 ms to 4 ms each" in text


def test_a_sibling_with_a_problem_below_it_is_not_folded() -> None:
    trace = Trace()
    root = trace.task("task main", 0, 1000)
    fetches = [trace.task("task fetch", number, number + 5, root) for number in range(20)]
    trace.span("block parse", 7, 8, fetches[7], asyncio__problem="loop_blocked", **contract.code("parse", 9))
    assert "block parse" in page(trace).partition("trace ")[2]


def test_a_trace_of_many_rows_says_how_many_more_there_are() -> None:
    trace, parent = Trace(), ""
    for number in range(60):
        parent = trace.task(f"task f{number}", 0, 100 - number, parent)
    assert "20 more" in page(trace)


def test_a_span_whose_parent_is_missing_is_shown() -> None:
    trace = Trace()
    trace.span("GET /", 0, 10, "0123456789abcdef", kind=2)
    assert "GET /" in page(trace, selection=Selection(name="GET*"))


def test_spans_that_are_their_own_ancestors_do_no_harm() -> None:
    trace = Trace()
    first = trace.span("a", 0, 10)
    second = trace.span("b", 0, 10, first)
    trace.spans[0]["parentSpanId"] = second
    assert "b" in page(trace, selection=Selection(name="a"))


def test_a_page_of_no_spans_says_so() -> None:
    assert page().strip() == "no spans"


@pytest.mark.parametrize("width", (40, 60, 80, 100, 200))
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(map(len, page(*contract.everything(), width=width).splitlines())) <= width


def test_no_line_ends_in_blanks() -> None:
    assert [line for line in page(*contract.everything(), width=80).splitlines() if line != line.rstrip()] == []


def test_a_page_without_colours_has_no_escape_codes() -> None:
    assert "\x1b" not in page(*contract.everything())


def test_a_page_on_a_terminal_has_colours() -> None:
    assert "\x1b[" in page(*contract.everything(), force_terminal=True, color_system="standard")


def test_a_terminal_without_unicode_gets_ascii() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    lines = [trace.line.encode() for trace in contract.everything()]
    Console(file=stream, width=80).print(make_page(lambda traces: read_spans(lines, [], "", traces)))
    stream.flush()
    assert b"x loop_blocked" in raw.getvalue()


def test_a_name_cannot_move_the_cursor() -> None:
    trace = Trace()
    trace.span("GET \x1b[2J\r\n/", 0, 10, kind=2, asyncio__problem="stuck\x1b[1m", code__file__path="\x1b]")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", page(trace))


# --- what is read

OTHERS = {
    "traceId": "AB" * 16, "spanId": "cd" * 8, "name": "SELECT", "kind": "SPAN_KIND_CLIENT",
    "startTimeUnixNano": 1_000, "endTimeUnixNano": "3000", "status": {"code": "STATUS_CODE_ERROR"}, "unknown": [1],
    "attributes": [
        {"key": "a", "value": {"intValue": 5}}, {"key": "b", "value": {"doubleValue": "NaN"}},
        {"key": "c", "value": {"kvlistValue": {"values": [{"key": "d", "value": {"boolValue": True}}]}}},
        {"key": "e", "value": {"arrayValue": {}}}, {"key": "f", "value": {}}, {"key": "g"},
    ],
}  # fmt: skip


def test_what_other_writers_write_is_read() -> None:
    request = {"resourceSpans": [{"scopeSpans": [{"spans": [OTHERS]}]}]}
    (span,) = spans_of_request(request)
    assert [each.name for each in spans_of_request({"result": request})] == [span.name]  # as Jaeger answers
    assert (span.trace_id, span.kind, span.duration, span.failed) == ("ab" * 16, "CLIENT", 2000, True)
    assert {key: span.attributes[key] for key in "acefg"} == {"a": 5, "c": {"d": True}, "e": [], "f": None, "g": None}


@pytest.mark.parametrize("line", ('{"resourceMetrics": []}', '{"resourceLogs": [{"scopeLogs": []}]}', "", "\n"))
def test_a_line_without_spans_is_no_fault(line: str) -> None:
    broken: list[BrokenLine] = []
    assert (list(read_spans([line.encode()], broken)), broken) == ([], [])


@pytest.mark.parametrize(
    "line",
    (
        "no json\n", '{"resourceSpans": 5}\n', "[1]\n", '"text"\n', '{"resourceSpans": [{"scopeSpans": [{"spans": [{}]}]}]}\n',
        '{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "a", "spanId": "b", "startTimeUnixNano": "x"}]}]}]}\n',
        "[" * 100_000 + "\n", '{"resourceSpans": [null]}\n', b"\xff\xfe\n",
    ),
)  # fmt: skip
def test_a_broken_line_is_named_by_its_number_and_the_rest_is_read(line: Any) -> None:
    broken: list[BrokenLine] = []
    good, wrong = contract.blocked().line.encode(), line if isinstance(line, bytes) else line.encode()
    spans = list(read_spans([good, wrong, good], broken, "file"))
    assert [(fault.source, fault.number) for fault in broken] == [("file", 2)]
    assert len(spans) == 8


def test_a_line_that_was_cut_is_told_from_one_that_is_wrong() -> None:
    broken: list[BrokenLine] = []
    list(read_spans([contract.blocked().line[:50].encode()], broken))
    assert "is cut" in broken[0].reason


# --- filters


@pytest.mark.parametrize(
    ("selection", "expected"),
    (
        (Selection(problem="timeout"), {"GET /pay"}),
        (Selection(problem="any"), {"GET /pay", "GET /checkout", "task main"}),
        (Selection(name="cancel *"), {"GET /news"}),
        (Selection(service="bank"), set()),
        (Selection(min_duration=400 * contract.MS), {"GET /checkout", "task main"}),
    ),
)
def test_a_filter_shows_the_traces_that_hold_such_a_span(selection: Selection, expected: set[str]) -> None:
    text = page(*contract.everything(), selection=selection, slowest=10)
    assert set(re.findall(r"^trace \w+ (\w+ [/\w]+)", text, re.MULTILINE)) == expected


def test_a_trace_is_found_by_the_beginning_of_its_id() -> None:
    trace = contract.blocked()
    trace_id = "feed" + trace.trace_id[4:]
    line = trace.line.replace(trace.trace_id, trace_id)
    text = str(
        make_page(lambda _: read_spans([line.encode(), contract.locked().line.encode()], []), Selection(trace="feed"))
    )
    assert re.findall(r"^trace (\w+)", text, re.MULTILINE) == [trace_id]


def test_a_service_is_found_by_its_name() -> None:
    bank = Trace(service="bank")
    bank.span("POST /charge", 0, 5, kind=2)
    text = page(bank, *contract.everything(), selection=Selection(service="bank"))
    assert re.findall(r"^trace \w+ (\w+)", text, re.MULTILINE) == ["POST"]


# --- what it costs


def test_memory_does_not_grow_with_the_number_of_traces() -> None:
    def read(_: Any) -> Any:
        for _ in range(3_000):
            trace = Trace()
            trace.span("GET /", 0, 1, kind=2)
            yield from spans_of_request(trace.request)

    assert len(make_page(read, Selection(name="GET*")).survey.slow) == 3


def test_a_page_is_html_in_a_notebook() -> None:
    lines = [trace.line.encode() for trace in contract.everything()]
    html = make_page(lambda traces: read_spans(lines, [], "", traces))._repr_html_()
    assert html.startswith("<pre")
    assert "loop_blocked" in html


def test_the_json_of_the_contract_is_otlp() -> None:
    """The fixtures are read by the ecosystem's own decoder."""
    from google.protobuf.json_format import Parse
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    for trace in contract.everything():
        request = Parse(json.dumps(trace.request), ExportTraceServiceRequest())
        assert len(request.resource_spans[0].scope_spans[0].spans) == len(trace.spans)
