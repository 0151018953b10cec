"""One run of the web service under load: what was asked, what the service counted, what the receiver got."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from .load import Caller, drive
from .otlp import Span, named
from .receivers import DatadogTestAgent
from .running import NO_BLOCKS, drive_service, program


@dataclass(frozen=True)
class Served:
    callers: list[Caller]
    counts: Mapping[str, int]
    spans: list[Span]

    @property
    def look_ups(self) -> list[Span]:
        """The child task of every request."""
        return named(self.spans, "task Service.look_up")

    @property
    def server_spans(self) -> list[Span]:
        return [span for span in self.spans if span.kind == "SERVER"]


def serve(agent: DatadogTestAgent, arguments: list[str], requests: int, connections: int) -> Served:
    """Starts the service, drives it, stops it, and reads its spans from the agent, emptied before."""
    agent.clear()
    environment = agent.exporter_environment("http/protobuf") | NO_BLOCKS
    callers, out, _ = drive_service(
        *program("service.py", *arguments),
        environment=environment,
        drive=lambda port: drive(int(port), requests, connections),
    )
    return Served(callers, json.loads(out), agent.spans())
