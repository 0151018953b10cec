"""The file that `otel-asyncio run` writes, line by line, into receivers that nobody here wrote."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .receivers import DatadogTestAgent, Rotel
from .running import PROGRAMS, TIMEOUT, clean_environment

POSTED = 30.0


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The spans of a small script."""
    path = tmp_path_factory.mktemp("run") / "spans.jsonl"
    command = [sys.executable, "-m", "otel_asyncio", "run", "-o", str(path), str(PROGRAMS / "script.py")]
    done = subprocess.run(command, env=clean_environment({}), capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
    return path


def written(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text().splitlines():
        for under_resource in json.loads(line)["resourceSpans"]:
            for under_scope in under_resource["scopeSpans"]:
                yield from under_scope["spans"]


def post(path: Path, endpoint: str) -> None:
    for line in path.read_bytes().splitlines():
        request = urllib.request.Request(f"{endpoint}/v1/traces", line, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=POSTED) as answer:
            assert answer.status == 200


@pytest.fixture(scope="module")
def accepted(rotel: Rotel, file: Path) -> list[Any]:
    post(file, rotel.endpoints["http/protobuf"])
    return rotel.stop_and_read()


def test_rotel_accepts_every_span(accepted: list[Any], file: Path) -> None:
    assert Counter(span.name for span in accepted) == Counter(span["name"] for span in written(file))


def test_rotel_reads_the_ids_as_they_were_written(accepted: list[Any], file: Path) -> None:
    assert {span.fields["ID"] for span in accepted} == {span["spanId"] for span in written(file)}


def test_rotel_reads_the_types_of_attributes(accepted: list[Any]) -> None:
    fetch = next(span for span in accepted if span.name == "task fetch")
    types = {
        name: fetch.attributes[name][0]
        for name in ("asyncio.task.kind", "asyncio.task.steps", "asyncio.task.idle_time")
    }
    assert types == {"asyncio.task.kind": "Str", "asyncio.task.steps": "Int", "asyncio.task.idle_time": "Double"}


def test_the_test_agent_accepts_every_line(agent: DatadogTestAgent, file: Path) -> None:
    agent.clear()
    post(file, agent.endpoints["http/protobuf"])
    assert len(json.loads(agent._get("traces"))) == len(file.read_text().splitlines())
