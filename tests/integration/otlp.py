"""What the test agent hands back, as plain values of OTLP's types: an int stays an int, a double a float."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Value = str | bool | int | float | list[Any] | None
Attributes = dict[str, Value]

SCOPE = "otel_asyncio"
REMOTE_PARENT = 0x300
"""Both bits of `Span.flags` about a remote parent: known, and true."""


@dataclass(frozen=True)
class Link:
    trace_id: str
    span_id: str
    attributes: Attributes


@dataclass(frozen=True)
class Event:
    name: str
    time: int
    attributes: Attributes


@dataclass(frozen=True)
class Span:
    """One span as it left the process, with the scope and the resource it was sent under."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    start: int
    end: int
    status: str
    flags: int
    attributes: Attributes
    links: tuple[Link, ...]
    events: tuple[Event, ...]
    scope: str
    scope_version: str
    schema_url: str
    resource: Attributes

    @property
    def has_remote_parent(self) -> bool:
        return self.flags & REMOTE_PARENT == REMOTE_PARENT

    def seconds(self, attribute: str) -> float:
        value = self.attributes[attribute]
        assert isinstance(value, float), f"{attribute} of {self.name} is {value!r}"
        return value


def spans_of_requests(requests: list[dict[str, Any]]) -> list[Span]:
    return [span for request in requests for span in _spans_of_request(request)]


def _spans_of_request(request: Mapping[str, Any]) -> Iterator[Span]:
    for under_resource in request.get("resource_spans", ()):
        resource = _attributes(under_resource.get("resource", {}))
        for under_scope in under_resource.get("scope_spans", ()):
            for span in under_scope.get("spans", ()):
                yield _span(span, under_scope, resource)


def _span(span: Mapping[str, Any], under_scope: Mapping[str, Any], resource: Attributes) -> Span:
    scope = under_scope.get("scope", {})
    return Span(
        name=span["name"],
        trace_id=_hex(span["trace_id"]),
        span_id=_hex(span["span_id"]),
        parent_id=_hex(span.get("parent_span_id", "")),
        kind=span["kind"].removeprefix("SPAN_KIND_"),
        start=int(span["start_time_unix_nano"]),
        end=int(span["end_time_unix_nano"]),
        status=span.get("status", {}).get("code", "STATUS_CODE_UNSET").removeprefix("STATUS_CODE_"),
        flags=span.get("flags", 0),
        attributes=_attributes(span),
        links=tuple(map(_link, span.get("links", ()))),
        events=tuple(map(_event, span.get("events", ()))),
        scope=scope.get("name", ""),
        scope_version=scope.get("version", ""),
        schema_url=under_scope.get("schema_url", ""),
        resource=resource,
    )


def _link(link: Mapping[str, Any]) -> Link:
    return Link(_hex(link["trace_id"]), _hex(link["span_id"]), _attributes(link))


def _event(event: Mapping[str, Any]) -> Event:
    return Event(event["name"], int(event["time_unix_nano"]), _attributes(event))


def _attributes(holder: Mapping[str, Any]) -> Attributes:
    return {each["key"]: _value(each["value"]) for each in holder.get("attributes", ())}


def _value(value: Mapping[str, Any]) -> Value:
    """JSON of protobuf writes 64-bit integers as strings; the name of the field says what was sent."""
    match dict(value):
        case {"int_value": sent}:
            return int(sent)
        case {"double_value": sent}:
            return float(sent)
        case {"string_value": sent} | {"bool_value": sent}:
            return sent  # type: ignore[no-any-return]
        case {"array_value": sent}:
            return [_value(each) for each in sent.get("values", ())]
    return None


def _hex(identifier: str) -> str:
    return base64.b64decode(identifier).hex()


def named(spans: list[Span], name: str) -> list[Span]:
    return [span for span in spans if span.name == name]


def one(spans: list[Span], name: str) -> Span:
    """The only span of that name; two would mean that it was doubled, and that is always a failure."""
    found = named(spans, name)
    assert len(found) == 1, f"{len(found)} spans named {name!r} among {sorted(span.name for span in spans)}"
    return found[0]


def task_spans(spans: list[Span]) -> list[Span]:
    return [span for span in spans if span.scope == SCOPE and span.name.startswith("task ")]
