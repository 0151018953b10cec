"""Spans after the contract, written by hand: what the report has to know before, and after, it is emitted."""

from __future__ import annotations

import itertools
import json
from typing import Any

START = 1_700_000_000_000_000_000
MS = 1_000_000
_ids = itertools.count(1)


def value(content: Any) -> dict[str, Any]:
    if isinstance(content, bool):
        return {"boolValue": content}
    if isinstance(content, int):
        return {"intValue": str(content)}
    if isinstance(content, float):
        return {"doubleValue": content}
    if isinstance(content, list):
        return {"arrayValue": {"values": [value(each) for each in content]}}
    return {"stringValue": content}


def attributes(**named: Any) -> list[dict[str, Any]]:
    return [{"key": key.replace("__", "."), "value": value(content)} for key, content in named.items()]


class Trace:
    """A trace that is written span by span; times in milliseconds since its start."""

    def __init__(self, service: str = "shop", at: float = 0) -> None:
        self.trace_id = f"{next(_ids):032x}"
        self.service = service
        self.at = at
        self.spans: list[dict[str, Any]] = []

    def span(
        self,
        name: str,
        start: float,
        end: float,
        parent: str = "",
        *,
        kind: int = 1,
        error: str | None = None,
        links: tuple[tuple[str, str, str], ...] = (),
        **named: Any,
    ) -> str:
        """One more span; its id."""
        span_id = f"{next(_ids):016x}"
        raw: dict[str, Any] = {
            "traceId": self.trace_id, "spanId": span_id, "flags": 256, "name": name, "kind": kind,
            "startTimeUnixNano": str(START + int((self.at + start) * MS)),
            "endTimeUnixNano": str(START + int((self.at + end) * MS)),
            "attributes": attributes(**named), "droppedAttributesCount": 0, "status": {},
        }  # fmt: skip
        if parent:
            raw["parentSpanId"] = parent
        if error is not None:
            raw["status"] = {"code": 2, "message": error}
        raw["links"] = [
            {"traceId": trace_id, "spanId": linked, "attributes": attributes(asyncio__link__type=what)}
            for what, trace_id, linked in links
        ]
        self.spans.append(raw)
        return span_id

    def task(self, name: str, start: float, end: float, parent: str = "", *, busy: float = 0.0, scheduled: float = 0.0,
             outcome: str = "success", kind: str = "task", line: int = 10, **more: Any) -> str:  # fmt: skip
        """A task's span; its parts in milliseconds."""
        named = {
            "asyncio__task__kind": kind, "asyncio__task__outcome": outcome, "asyncio__task__name": "Task-7",
            "asyncio__eventloop__implementation": "asyncio", "asyncio__eventloop__id": 0,
            "asyncio__task__busy_time": busy / 1000, "asyncio__task__scheduled_time": scheduled / 1000,
            "asyncio__task__idle_time": (end - start - busy - scheduled) / 1000,
            "asyncio__task__max_step_time": busy / 1000, "asyncio__task__created__file": "/srv/shop.py",
            "asyncio__task__created__line": line, "asyncio__task__created__function": "answer",
            "code__function__name": f"shop.{name.removeprefix('task ')}", "code__file__path": "/srv/shop.py",
            "code__line__number": line,
        }  # fmt: skip
        return self.span(name, start, end, parent, **(named | more))

    @property
    def request(self) -> dict[str, Any]:
        resource = {"attributes": attributes(service__name=self.service)}
        scope = {"scope": {"name": "otel_asyncio", "version": "0.1.0"}, "spans": self.spans}
        return {"resourceSpans": [{"resource": resource, "scopeSpans": [scope]}]}

    @property
    def line(self) -> str:
        return json.dumps(self.request) + "\n"


def code(function: str, line: int, *stack: tuple[str, int]) -> dict[str, Any]:
    named: dict[str, Any] = {
        "code__function__name": f"shop.{function}", "code__file__path": "/srv/shop.py", "code__line__number": line,
    }  # fmt: skip
    if stack:
        frames = [f'  File "/srv/shop.py", line {number}, in {name}\n' for name, number in stack]
        named["code__stacktrace"] = "".join(frames)
    return named


def blocked() -> Trace:
    trace = Trace()
    root = trace.span("GET /checkout", 0, 200, kind=2)
    trace.task("task answer", 0, 200, root, kind="root_segment", busy=1, scheduled=20)
    handle = trace.task("task handle", 1, 198, root, busy=150, line=96)
    other = Trace()
    victim = other.task("task handle", 40, 200, scheduled=140)
    trace.span(
        "block draw_page", 45, 195, handle, asyncio__problem="loop_blocked", asyncio__block__victims=3,
        asyncio__block__samples=14, asyncio__block__accuracy=0.01,
        links=(("victim", other.trace_id, victim),),
        **code("draw_page", 41, ("answer", 96), ("checkout", 52), ("draw_page", 41)),
    )  # fmt: skip
    return trace


def timed_out() -> Trace:
    trace = Trace(at=300)
    root = trace.span("GET /pay", 0, 260, kind=2, error="ConnectionError: the bank did not answer")
    pay = trace.task("task handle", 1, 259, root, outcome="error", error="the bank did not answer",
                     error__type="ConnectionError")  # fmt: skip
    trace.span(
        "timeout pay", 2, 253, pay, error="TimeoutError", error__type="TimeoutError", asyncio__problem="timeout",
        asyncio__timeout__api="asyncio.timeout", asyncio__timeout__delay=0.25, asyncio__timeout__overrun=0.001,
        asyncio__timeout__outcome="raised", asyncio__await__target="asyncio.sleep",
        **code("pay", 58, ("handle", 104), ("pay", 59), ("ask_bank", 22)),
    )  # fmt: skip
    return trace


def locked() -> Trace:
    trace = Trace(at=600)
    root = trace.span("GET /checkout", 0, 420, kind=2)
    handle = trace.task("task handle", 1, 419, root, busy=1)
    receipt = trace.task("task print_receipt", 15, 418, handle, busy=1, line=53)
    trace.span(
        "await Lock.acquire", 16, 298, receipt, asyncio__await__target="Lock.acquire", asyncio__resource__type="Lock",
        asyncio__await__idle_time=0.281, asyncio__await__scheduled_time=0.001,
        asyncio__resource__holder__task="Task-41", asyncio__resource__holder__file="/srv/shop.py",
        asyncio__resource__holder__line=37, asyncio__resource__holder__held_time=0.12,
        **code("print_receipt", 36, ("handle", 104), ("print_receipt", 36)),
    )  # fmt: skip
    trace.span(
        "await asyncio.sleep", 298, 418, receipt, asyncio__await__target="asyncio.sleep",
        asyncio__await__idle_time=0.119, asyncio__await__scheduled_time=0.001,
        **code("print_receipt", 37, ("handle", 104), ("print_receipt", 37)),
    )  # fmt: skip
    trace.span("executor read_file", 20, 60, handle, asyncio__executor__kind="thread",
               asyncio__executor__queued_time=0.01, asyncio__executor__run_time=0.03, **code("read_file", 70))  # fmt: skip
    return trace


def cancelled() -> Trace:
    trace = Trace(at=1100)
    root = trace.span("GET /news", 0, 205, kind=2)
    handle = trace.task("task handle", 1, 203, root, outcome="cancellation")
    trace.span(
        "cancel handle", 200, 203, handle, asyncio__cancel__origin="explicit", asyncio__cancel__outcome="delivered",
        asyncio__cancel__expected=False, asyncio__cancel__requests=1, asyncio__cancel__latency=0.003,
        asyncio__cancel__by__task="Task-40", asyncio__cancel__by__file="/srv/shop.py", asyncio__cancel__by__line=99,
        asyncio__cancel__by__function="answer", asyncio__cancel__at__file="/srv/shop.py", asyncio__cancel__at__line=82,
        asyncio__await__target="asyncio.sleep", links=(("canceller", trace.trace_id, root),),
        **code("handle", 104, ("answer", 99)),
    )  # fmt: skip
    return trace


def others() -> Trace:
    """The problems that have a span of the name `asyncio.{problem}`."""
    trace = Trace(at=1400)
    root = trace.task("task main", 0, 900, kind="main")
    trace.span("asyncio.deadlock", 100, 800, root, asyncio__problem="deadlock",
               asyncio__deadlock__cycle=["transfer waits for lock B (bank.py:12)", "refund waits for lock A (bank.py:31)"],
               **code("transfer", 12))  # fmt: skip
    trace.span("asyncio.stuck", 100, 700, root, asyncio__problem="stuck", asyncio__stuck__since=0.6,
               asyncio__stuck__report=1, asyncio__await__target="Event.wait", **code("wait_for_go", 88))  # fmt: skip
    trace.span("asyncio.coroutine_never_awaited", 5, 5, root, asyncio__problem="coroutine_never_awaited",
               **code("save", 61))  # fmt: skip
    trace.span("asyncio.shutdown", 850, 900, root, asyncio__shutdown__cancelled=3)
    return trace


def everything() -> list[Trace]:
    return [blocked(), timed_out(), locked(), cancelled(), others()]


if __name__ == "__main__":
    print("".join(trace.line for trace in everything()), end="")
