"""Jaeger as a process, and the spans that its query API gives back."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from integration.otlp import Attributes, Event, Link, Span, Value
from integration.receivers import ReceiverProcess

from .components import SHIPPED, complaints, on_free_ports, read

KINDS = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
STATUS = ("UNSET", "OK", "ERROR")
MOST = 20000
"""The traces that jaeger.yaml keeps."""


@dataclass
class Jaeger:
    process: ReceiverProcess
    ports: dict[str, int]

    @classmethod
    def start(cls, binary: Path, directory: Path) -> Self:
        """With jaeger.yaml as shipped; its addresses come from the environment."""

        def once(ports: list[int]) -> Self:
            chosen = dict(zip(("otlp", "http", "grpc", "health"), ports, strict=True))
            addresses = {f"JAEGER_{name.upper()}": f"127.0.0.1:{port}" for name, port in chosen.items()}
            command = [str(binary), "--config", str(SHIPPED / "jaeger.yaml")]
            process = ReceiverProcess(command, ports, directory / f"jaeger-{chosen['otlp']}.log", addresses)
            process.wait_until_ready()
            return cls(process, chosen)

        return on_free_ports(4, once)

    @property
    def address(self) -> str:
        """Where a collector sends to."""
        return f"127.0.0.1:{self.ports['otlp']}"

    def asked(self, path: str, **parameters: str) -> Any:
        """What its API answers, and None where that is that there is no such thing."""
        try:
            answer = read(f"http://127.0.0.1:{self.ports['http']}{path}?{urllib.parse.urlencode(parameters)}")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise
        return json.loads(answer)

    def spans_of(self, service: str) -> list[Span]:
        """All spans of a service, each as often as it came."""
        found = self.asked(
            "/api/v3/traces",
            **{"query.service_name": service, "query.num_traces": str(MOST), "query.raw_traces": "true"},
            **{"query.start_time_min": "2000-01-01T00:00:00Z", "query.start_time_max": "2100-01-01T00:00:00Z"},
        )
        return list(_spans_of(found))

    def trace(self, trace_id: str) -> list[Span]:
        """One trace, as whoever opens it gets it."""
        return list(_spans_of(self.asked(f"/api/v3/traces/{trace_id}")))

    def complaints(self) -> list[str]:
        """The warnings and errors of its log."""
        return complaints(self.process.output)

    def stop(self) -> None:
        self.process.stop()


def _spans_of(answer: Mapping[str, Any] | None) -> Iterator[Span]:
    """OTLP's JSON, which is not protobuf's: ids are in base 16, the words of enumerations are numbers."""
    for under_resource in answer["result"]["resourceSpans"] if answer else ():
        resource = _attributes(under_resource.get("resource", {}))
        for under_scope in under_resource.get("scopeSpans", ()):
            for span in under_scope["spans"]:
                yield _span(span, under_scope, resource)


def _span(span: Mapping[str, Any], under_scope: Mapping[str, Any], resource: Attributes) -> Span:
    scope = under_scope.get("scope", {})
    return Span(
        name=span["name"],
        trace_id=span["traceId"],
        span_id=span["spanId"],
        parent_id=span.get("parentSpanId", ""),
        kind=KINDS[span.get("kind", 0)],
        start=int(span["startTimeUnixNano"]),
        end=int(span["endTimeUnixNano"]),
        status=STATUS[span.get("status", {}).get("code", 0)],
        flags=span.get("flags", 0),
        attributes=_attributes(span),
        links=tuple(Link(each["traceId"], each["spanId"], _attributes(each)) for each in span.get("links", ())),
        events=tuple(
            Event(each["name"], int(each["timeUnixNano"]), _attributes(each)) for each in span.get("events", ())
        ),
        scope=scope.get("name", ""),
        scope_version=scope.get("version", ""),
        schema_url=under_scope.get("schemaUrl", ""),
        resource=resource,
    )


def _attributes(holder: Mapping[str, Any]) -> Attributes:
    return {each["key"]: _value(each["value"]) for each in holder.get("attributes", ())}


def _value(value: Mapping[str, Any]) -> Value:
    match dict(value):
        case {"intValue": sent}:
            return int(sent)
        case {"doubleValue": sent}:
            return float(sent)
        case {"stringValue": sent} | {"boolValue": sent}:
            return sent  # type: ignore[no-any-return]
        case {"arrayValue": sent}:
            return [_value(each) for each in sent.get("values", ())]
    return None
