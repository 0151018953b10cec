"""One run of the web service under load: what was asked, what the service counted, what the receiver got."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from .load import Caller, drive
from .otlp import Span, named
from .receivers import DatadogTestAgent
from .running import NO_BLOCKS, TIMEOUT, clean_environment, program


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
    environment = clean_environment(agent.exporter_environment("http/protobuf") | NO_BLOCKS)
    command = program("service.py", *arguments)
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            callers = drive(_port_of(process), requests, connections)
            process.terminate()
            out, errors = process.communicate(timeout=TIMEOUT)
        except BaseException as failure:
            process.kill()
            failure.add_note(f"the service said: {process.communicate()[1][-4000:]}")
            raise
    assert process.returncode == 0, f"the service ended with {process.returncode}:\n{errors[-4000:]}"
    return Served(callers, json.loads(out), agent.spans())


def _port_of(process: subprocess.Popen[str]) -> int:
    """The service's first line; nothing comes if it failed, and then its stderr says why."""
    assert process.stdout
    assert process.stderr
    line = process.stdout.readline()
    assert line, process.stderr.read()[-4000:]
    return int(line)
