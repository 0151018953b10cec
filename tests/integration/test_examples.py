"""The examples, run as their first lines say, into a real receiver."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from .otlp import Span, named, one, task_spans
from .receivers import DatadogTestAgent
from .running import TIMEOUT, clean_environment, require, run, run_into

EXAMPLES = Path(__file__).parents[2] / "examples"
SERVICE = [sys.executable, str(EXAMPLES / "service.py")]
AIOHTTP_SERVICE = [sys.executable, str(EXAMPLES / "aiohttp_service.py")]


def ask_once(environment: dict[str, str]) -> tuple[str, str]:
    """Starts the service, sends one request, ends it; returns the answer and what was printed after that."""
    environment = clean_environment({**environment, "PORT": "0"})
    with subprocess.Popen(SERVICE, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            port = int(process.stdout.readline().split()[-1])
            with socket.create_connection(("127.0.0.1", port), TIMEOUT) as connection:
                connection.sendall(b"Ada\n")
                answer = connection.makefile().read()
            process.send_signal(signal.SIGTERM)
            printed, _ = process.communicate(timeout=TIMEOUT)
        finally:
            process.kill()
    assert process.returncode == os.EX_OK
    return answer, printed


@pytest.fixture(scope="module")
def service_spans(agent: DatadogTestAgent) -> list[Span]:
    agent.clear()
    ask_once(agent.exporter_environment("http/protobuf"))
    return agent.spans()


@pytest.fixture(scope="module")
def aiohttp_spans(agent: DatadogTestAgent) -> list[Span]:
    require("aiohttp")
    return run_into(agent, *AIOHTTP_SERVICE, protocol="http/protobuf", service="quotes")


def test_the_service_answers() -> None:
    assert ask_once({})[0] == "hello, Ada\nhello, everybody\n"


def test_the_service_without_an_endpoint_prints_its_spans() -> None:
    assert '"name": "task look_up"' in ask_once({})[1]


def test_the_service_s_tasks_lie_under_its_request(service_spans: list[Span]) -> None:
    parents = Counter(span.parent_id for span in named(service_spans, "task look_up"))
    assert parents == {one(service_spans, "request").span_id: 2}


def test_the_service_s_request_has_a_segment(service_spans: list[Span]) -> None:
    segment, request = one(service_spans, "task answer"), one(service_spans, "request")
    assert (segment.attributes["asyncio.task.kind"], segment.parent_id) == ("root_segment", request.span_id)


def test_the_aiohttp_example_makes_two_tasks_for_every_request(aiohttp_spans: list[Span]) -> None:
    requests = {span.span_id for span in named(aiohttp_spans, "GET /quote")}
    parents = Counter(span.parent_id for span in named(aiohttp_spans, "task fetch_price"))
    assert parents == dict.fromkeys(requests, 2)


def test_the_aiohttp_example_has_no_failed_task(aiohttp_spans: list[Span]) -> None:
    assert not [span.name for span in task_spans(aiohttp_spans) if span.status == "ERROR"]


def test_the_aiohttp_example_runs_without_a_receiver() -> None:
    require("aiohttp")
    assert "task fetch_price" in run(*AIOHTTP_SERVICE, environment={}).stdout
