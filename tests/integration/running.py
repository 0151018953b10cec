"""Programs of the integration tests: each in its own process and its own environment."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

from .otlp import Span
from .receivers import DatadogTestAgent

Driven = TypeVar("Driven")
PROGRAMS = Path(__file__).with_name("programs")
TIMEOUT = 120.0
NO_BLOCKS = {"OTEL_PYTHON_ASYNCIO_BLOCK_THRESHOLD": "off"}
"""For tests of something else: an application that is imported on its loop blocks it on a slow machine."""


def require(*modules: str) -> None:
    """Skips what needs a third-party package that this interpreter does not have."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


def clean_environment(additions: Mapping[str, str]) -> dict[str, str]:
    """Without the OTEL_* variables of whoever runs the tests; with room for a burst in the batch queue."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return {**inherited, "OTEL_BSP_MAX_QUEUE_SIZE": "65536", "OTEL_METRICS_EXPORTER": "none", **additions}


def run(*command: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end; one that fails is a failure of the test, with all it said."""
    done = subprocess.run(command, env=clean_environment(environment), capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-4000:]}"
    return done


def drive_service(
    *command: str, environment: Mapping[str, str], drive: Callable[[str], Driven]
) -> tuple[Driven, str, str]:
    """Starts a service, drives it with the first line it prints, and terminates it.

    Returns what the driver did, and the rest of what the service printed and said on standard error. One that fails is a
    failure of the test, with the end of what it said.
    """
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=clean_environment(environment), **pipes) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            assert first, "it ended before it was ready"
            driven = drive(first)
            process.terminate()
            out, errors = process.communicate(timeout=TIMEOUT)
        except BaseException as failure:
            process.kill()
            failure.add_note(f"the service said: {process.communicate()[1][-4000:]}")
            raise
    assert process.returncode == 0, f"the service ended with {process.returncode}:\n{errors[-4000:]}"
    return driven, out, errors


def run_into(agent: DatadogTestAgent, *command: str, protocol: str, service: str) -> list[Span]:
    """Runs a program whose exporter sends to the emptied agent, and returns what has arrived."""
    agent.clear()
    environment = {**agent.exporter_environment(protocol), "OTEL_SERVICE_NAME": service}
    run(*command, environment=environment)
    return agent.spans()


def program(name: str, *arguments: str) -> list[str]:
    return [sys.executable, str(PROGRAMS / name), *arguments]


def line_of(path: Path, code: str) -> int:
    """The number of the only line of a program that contains `code`."""
    lines = path.read_text().splitlines()
    numbers = [number for number, line in enumerate(lines, 1) if code in line]
    assert len(numbers) == 1, f"{code!r} stands in lines {numbers} of {path.name}"
    return numbers[0]
