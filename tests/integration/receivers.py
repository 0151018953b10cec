"""OTLP receivers that nobody here wrote, as processes on the loopback interface.

`DatadogTestAgent` hands back every request it got, so it is what most tests read. `Rotel` is a second
opinion: another implementation, in another language, of the same two transports.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from . import provision
from .otlp import Span, spans_of_requests
from .rotel_dump import DumpedSpan, spans_of_dump

START_TIMEOUT = 60.0
STOP_TIMEOUT = 15.0
READ_TIMEOUT = 30.0
ATTEMPTS = 3


class StartFailed(provision.Unavailable):
    """The receiver is installed and did not come up: somebody took its port in between, for one."""


def until(condition: Callable[[], bool], timeout: float, what: str) -> None:
    """Polls `condition`; the deadline is for a machine that is busy with other things."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now; somebody may take one meanwhile, which is why starting is tried again."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class ReceiverProcess:
    """A receiver's process: started, waited for, and stopped without leaving anything behind."""

    def __init__(
        self, command: Sequence[str], ports: Sequence[int], output: Path, environment: Mapping[str, str]
    ) -> None:
        self._ports = ports
        self.output = output
        with output.open("wb") as sink:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT,
                env={**os.environ, **environment}, cwd=output.parent,
            )  # fmt: skip

    def wait_until_ready(self) -> None:
        try:
            until(self._listens, START_TIMEOUT, f"{self.output.stem} listening on {self._ports}")
        except TimeoutError as late:
            self.stop()
            raise StartFailed(f"{late}: {self.output.read_text()[-600:]}") from late

    def _listens(self) -> bool:
        if self._process.poll() is not None:
            raise StartFailed(f"{self.output.stem} ended: {self.output.read_text()[-600:]}")
        return all(map(accepts, self._ports))

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Receiver:
    """What the tests need of any receiver: its two addresses, a start and a stop."""

    name: str

    def __init__(self, process: ReceiverProcess, grpc_port: int, http_port: int) -> None:
        self._process = process
        self.endpoints = {
            "grpc": f"http://127.0.0.1:{grpc_port}",
            "http/protobuf": f"http://127.0.0.1:{http_port}",
        }

    @classmethod
    def start(cls, directory: Path) -> Self:
        """A running receiver; `Unavailable` when there can be none."""
        for _ in range(ATTEMPTS - 1):
            try:
                return cls._start_once(directory)
            except StartFailed:
                continue
        return cls._start_once(directory)

    @classmethod
    def _start_once(cls, directory: Path) -> Self:
        raise NotImplementedError

    def stop(self) -> None:
        self._process.stop()

    def exporter_environment(self, protocol: str) -> dict[str, str]:
        """The standard variables that point a program's OTLP exporter here."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoints[protocol],
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_INSECURE": "true",
        }


class DatadogTestAgent(Receiver):
    """Datadog's APM test agent: `GET /test/session/traces` returns every OTLP request as JSON."""

    name = "ddapm-test-agent"

    @classmethod
    def _start_once(cls, directory: Path) -> Self:
        own, http, grpc = free_ports(3)
        listen = ["--host", "127.0.0.1", "--port", str(own)]
        otlp = ["--otlp-http-port", str(http), "--otlp-grpc-port", str(grpc)]
        command = [str(provision.ddapm_test_agent()), *listen, *otlp]
        keep = ["--disable-llmobs-data-forwarding", "--max-requests", "100000"]
        process = ReceiverProcess([*command, *keep], [own, http, grpc], directory / f"{cls.name}.log", {})
        process.wait_until_ready()
        return cls(process, grpc, http)

    def clear(self) -> None:
        self._get("clear")

    def spans(self) -> list[Span]:
        """All that arrived since the last `clear`: the agent stores a request before it answers it."""
        return spans_of_requests(json.loads(self._get("traces")))

    def _get(self, what: str) -> bytes:
        url = f"{self.endpoints['http/protobuf']}/test/session/{what}"
        with urllib.request.urlopen(url, timeout=READ_TIMEOUT) as answer:
            body: bytes = answer.read()
        return body


class Rotel(Receiver):
    """rotel, a collector written in Rust, with its debug dump as the way to read back."""

    name = "rotel"

    @classmethod
    def _start_once(cls, directory: Path) -> Self:
        grpc, http = free_ports(2)
        binary, libraries = provision.rotel()
        listen = [f"--otlp-grpc-endpoint=127.0.0.1:{grpc}", f"--otlp-http-endpoint=127.0.0.1:{http}"]
        dump = ["--exporter=blackhole", "--debug-log=traces", "--debug-log-verbosity=detailed"]
        environment = {"LD_LIBRARY_PATH": str(libraries)} if libraries else {}
        command = [str(binary), "start", *listen, *dump]
        process = ReceiverProcess(command, [grpc, http], directory / f"{cls.name}.log", environment)
        process.wait_until_ready()
        return cls(process, grpc, http)

    def stop_and_read(self) -> list[DumpedSpan]:
        """A request is answered before it is dumped: only a stopped rotel has surely written everything."""
        self.stop()
        return spans_of_dump(self._process.output.read_text())
