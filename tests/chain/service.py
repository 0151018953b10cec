"""The faulty service as a process: started, watched, ended, and what it says it did."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from integration.running import clean_environment

PROGRAMS = Path(__file__).with_name("programs")
TIMEOUT = 60.0


@dataclass
class Service:
    process: subprocess.Popen[str]
    errors: IO[str]

    def end(self) -> Counter[str]:
        """Ask it to end, and return what all of its processes did together."""
        self.process.terminate()
        return self.wait()

    def wait(self) -> Counter[str]:
        """Wait for its own end."""
        said, _ = self.process.communicate(timeout=TIMEOUT)
        assert self.process.returncode == os.EX_OK, self.complaint()
        lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        return sum((Counter(line) for line in lines), Counter())

    def complaint(self) -> str:
        self.errors.seek(0)
        return self.errors.read()[-4000:]


CROWDED = {"OTEL_PYTHON_ASYNCIO_AWAIT_THRESHOLD": "off"}
"""On a crowded machine a healthy process waits for a processor: no spans of that."""


def environment(endpoint: str, protocol: str, name: str, **more: str) -> dict[str, str]:
    """Spans and metrics to this endpoint, soon."""
    return clean_environment(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_INSECURE": "true",
            "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_METRIC_EXPORT_INTERVAL": "500",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "OTEL_SERVICE_NAME": name,
            "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "host",  # as the README of collector-config says, for Jaeger
            **CROWDED,
            **more,
        }
    )


@contextmanager
def serving(*arguments: str, **where: str) -> Iterator[Service]:
    """The service with these arguments; it is gone afterwards, whatever happens."""
    with tempfile.TemporaryFile("w+") as errors:
        process = start("faulty.py", *arguments, errors=errors, **where)
        try:
            yield Service(process, errors)
        finally:
            process.kill()
            process.communicate()


def start(program: str, *arguments: str, errors: Any, **where: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROGRAMS / program), *arguments]
    return subprocess.Popen(command, env=environment(**where), stdout=subprocess.PIPE, stderr=errors, text=True)
