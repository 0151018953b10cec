"""OTLP JSON lines, one export request a line, as spans: streamed, so that the size of a file does not matter.

The format is OpenTelemetry's (docs/specs/otel/protocol/file-exporter): ids in hex, 64-bit integers as strings, enums as
numbers. Names of enums and plain numbers are read as well, and what a line holds besides spans is passed over.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

_KINDS = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
_STATUS_ERROR = (2, "2", "STATUS_CODE_ERROR", "ERROR")
_REMOTE_PARENT = 0x300  # both bits of `Span.flags`: it is known whether the parent is remote, and it is
_CONTROL = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], "·")  # a name must not be able to move the cursor


class BrokenLine(NamedTuple):
    """A line that could not be read: its number, from 1, and why."""

    source: str
    number: int
    reason: str


class Link(NamedTuple):
    """Another span that this one points to."""

    trace_id: str
    span_id: str
    attributes: dict[str, Any]


class Span:
    """One span. What only some readers need is made when it is first asked for."""

    def __init__(self, raw: Mapping[str, Any], service: str, scope: str) -> None:
        self._raw = raw
        self.service = service
        self.scope = scope
        self.trace_id: str = raw["traceId"].lower()
        self.span_id: str = raw["spanId"].lower()
        self.parent_id: str = (raw.get("parentSpanId") or "").lower()
        name: str = raw.get("name", "")
        self.name = name if name.isprintable() else name.translate(_CONTROL)
        self.start = int(raw["startTimeUnixNano"])
        self.end = max(self.start, int(raw.get("endTimeUnixNano") or self.start))
        self.failed = raw.get("status", {}).get("code", 0) in _STATUS_ERROR

    @property
    def duration(self) -> int:
        """From start to end, in nanoseconds."""
        return self.end - self.start

    @property
    def is_local_root(self) -> bool:
        """Whether it is the first of its trace in its process."""
        return not self.parent_id or self._raw.get("flags", 0) & _REMOTE_PARENT == _REMOTE_PARENT

    @property
    def kind(self) -> str:
        """`INTERNAL`, `SERVER`, or another of OTLP's kinds."""
        kind = self._raw.get("kind", 0)
        return _KINDS[kind] if isinstance(kind, int) and kind < len(_KINDS) else str(kind).removeprefix("SPAN_KIND_")

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """All attributes, as plain values."""
        return _attributes(self._raw)

    @property
    def links(self) -> list[Link]:
        """What it points to."""
        return [
            Link(link.get("traceId", "").lower(), link.get("spanId", "").lower(), _attributes(link))
            for link in self._raw.get("links", ())
        ]

    @property
    def events(self) -> list[tuple[str, dict[str, Any]]]:
        """Names and attributes of its events, in their order."""
        return [(event.get("name", ""), _attributes(event)) for event in self._raw.get("events", ())]

    @property
    def message(self) -> str:
        """The description of its status."""
        return clean(self._raw.get("status", {}).get("message", ""))


def clean(text: Any) -> str:
    """One line of text without control characters."""
    return str(text).translate(_CONTROL)


def _attributes(holder: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in holder.get("attributes", ()):  # most of the time that a large file takes is spent here
        value = item.get("value")
        found[item["key"]] = value["stringValue"] if value and "stringValue" in value else _value(value or {})
    return found


def _value(value: Mapping[str, Any]) -> Any:
    for kind, content in value.items():
        if kind == "intValue":
            return int(content)
        if kind == "doubleValue":
            return float(content)  # also "NaN" and "Infinity"
        if kind == "arrayValue":
            return [_value(each) for each in content.get("values", ())]
        if kind == "kvlistValue":
            return _attributes({"attributes": content.get("values", ())})
        return content
    return None


def spans_of_request(request: Mapping[str, Any]) -> Iterator[Span]:
    """The spans of one export request, or of an answer of Jaeger's `/api/v3/traces`, which wraps the same in `result`.

    Raises what a request that is none raises.
    """
    for under_resource in request.get("result", request).get("resourceSpans", ()):
        resource = _attributes(under_resource.get("resource", {}))
        service = clean(resource.get("service.name", ""))
        for under_scope in under_resource.get("scopeSpans", ()):
            scope = under_scope.get("scope", {}).get("name", "")
            for raw in under_scope.get("spans", ()):
                yield Span(raw, service, scope)


def spans_of_line(line: bytes, number: int, source: str = "") -> tuple[list[Span], BrokenLine | None]:
    """The spans of one line and, where it could not be read to its end, what is wrong with it."""
    spans: list[Span] = []
    if not line.strip():
        return spans, None
    try:
        for span in spans_of_request(json.loads(line)):
            span.attributes  # noqa: B018 - a broken attribute shall be told with its line, not later
            spans.append(span)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return spans, BrokenLine(source, number, _reason(error, line))
    return spans, None


def _reason(error: Exception, line: bytes) -> str:
    if isinstance(error, json.JSONDecodeError):
        cut = not line.endswith(b"\n")
        return "is cut: its writer was killed, or is still writing" if cut else f"is not JSON: {error}"
    if isinstance(error, KeyError):
        return f"is not OTLP JSON: no {error}"
    return f"is not OTLP JSON: {type(error).__name__}: {error}"


def read_spans(
    lines: Iterable[bytes], broken: list[BrokenLine], source: str = "", traces: Collection[str] = ()
) -> Iterator[Span]:
    """The spans of all lines; those that cannot be read are appended to `broken`.

    `traces`: only lines that mention one of these ids are looked at.
    """
    ids = [form for trace_id in traces for form in {trace_id.encode(), trace_id.upper().encode()}]
    for number, line in enumerate(lines, 1):
        if ids and not any(each in line for each in ids):
            continue
        spans, fault = spans_of_line(line, number, source)
        yield from spans
        if fault is not None:
            broken.append(fault)
