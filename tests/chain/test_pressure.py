"""Whatever the pipe is like, the program goes on: same latency, bounded memory, counted drops, an exit in time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from integration.otlp import Span
from integration.receivers import until

from .components import PATIENCE, Collector
from .jaeger import Jaeger
from .service import PROGRAMS, environment, serving
from .sinks import GRPC, HTTP, Sink
from .test_scale_out import accepted, total

TIMEOUT = 1.0
BATCHES = 2048 // 512
SPANS_A_REQUEST = 22
PIPES = [("grpc", name) for name in GRPC] + [("http/protobuf", name) for name in HTTP]


@pytest.fixture(scope="module", params=PIPES, ids=lambda pipe: f"{pipe[0][:4]}-{pipe[1]}")
def felt(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the program felt of such a pipe."""
    protocol, name = request.param
    sink: Sink = (GRPC if protocol == "grpc" else HTTP)[name]
    with sink(tmp_path_factory.mktemp("sink")) as endpoint:
        variables = environment(
            endpoint,
            protocol,
            "pressed",
            OTEL_EXPORTER_OTLP_TIMEOUT=str(int(TIMEOUT)),
            OTEL_EXPORTER_OTLP_INSECURE=str(endpoint.startswith("http:")).lower(),
            OTEL_BSP_MAX_QUEUE_SIZE="2048",
            OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED="true",
        )
        command = [sys.executable, str(PROGRAMS / "pressed.py")]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def test_the_program_keeps_its_latency(felt: dict[str, Any]) -> None:
    assert felt["median"]["pressed"] < 3 * felt["median"]["calm"]


def test_no_request_waits_for_the_pipe(felt: dict[str, Any]) -> None:
    assert felt["longest"]["pressed"] < TIMEOUT


def test_memory_is_bounded(felt: dict[str, Any]) -> None:
    assert felt["grown_kib"] < 64 * 1024


def test_the_exit_is_not_delayed_beyond_the_time_out(felt: dict[str, Any]) -> None:
    """Every batch of the queue is tried once, and one may be on its way."""
    assert felt["exit"] < (BATCHES + 1) * TIMEOUT + 3


def test_every_span_is_handed_over_queued_or_counted_as_dropped(felt: dict[str, Any]) -> None:
    made = 2 * 300 * SPANS_A_REQUEST
    known = felt["handed_over"] + felt.get("queue_full", 0)
    assert made - 2 * 2048 <= known <= made + 1  # the rest is in the queues; one is the main task's


OUTAGE = float(os.environ.get("OTEL_ASYNCIO_OUTAGE", "3"))
"""Seconds."""


def test_after_an_outage_everything_goes_on(
    collect: Callable[..., Collector], jaeger: Jaeger, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = {"OTELCOL_DECISION_WAIT": "1s", "OTELCOL_SAMPLING_PERCENTAGE": "100"}
    collector = collect("collector.yaml", OTELCOL_BACKEND=jaeger.address, **everything)
    collector.kill()
    where = {"endpoint": collector.endpoint("grpc"), "protocol": "grpc", "name": "outage"}
    with serving("--pause", "0.01", OTEL_EXPORTER_OTLP_TIMEOUT="1", **where) as running:
        collector.run()  # it was down at the program's start
        until(lambda: accepted(collector) > 50, PATIENCE, "spans after the start")
        collector.kill()
        time.sleep(OUTAGE)  # an outage is a time in which nothing happens
        collector.run()
        back = time.time_ns()
        until(lambda: len(made_after(back, jaeger)) > 50, PATIENCE + OUTAGE, "spans made after the outage")
        did = running.end()
    collector.wait_until_done()
    assert total(collector, "asyncio_task_started_total") == did["started"]
    arrived, made = len(jaeger.spans_of("outage")), 3 * did["requests"]
    with capsys.disabled():
        print(f"\nan outage of {OUTAGE:g} s: {made - arrived} of {made} spans lost, of no task the count")
    assert arrived <= made


def made_after(moment: int, jaeger: Jaeger) -> list[Span]:
    return [span for span in jaeger.spans_of("outage") if span.start > moment]
