"""`configure()` by the standard variables alone, over TLS into a real collector that asks for the client's certificate."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from command import started
from integration.otlp import named
from integration.receivers import ReceiverProcess, free_ports, until

from .components import PATIENCE
from .jaeger import Jaeger

PROGRAM = """
import asyncio, otel_asyncio
async def fetch(): await asyncio.sleep(0.01)
async def main(): await asyncio.create_task(fetch())
otel_asyncio.configure()
asyncio.run(main())
"""
CONFIG = """
receivers:
  otlp:
    protocols:
      grpc: {{endpoint: "127.0.0.1:{grpc}", tls: &tls {{cert_file: {folder}/server.pem, key_file: {folder}/server.key, client_ca_file: {folder}/ca.pem}}}}
      http: {{endpoint: "127.0.0.1:{http}", tls: *tls}}
exporters:
  otlp: {{endpoint: "{store}", tls: {{insecure: true}}}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines:
    traces: {{receivers: [otlp], exporters: [otlp]}}
"""  # noqa: E501


@dataclass(frozen=True)
class Secured:
    """A collector that only talks to whom its authority vouches for."""

    grpc: int
    http: int
    folder: Path
    jaeger: Jaeger

    def variables(self, protocol: str, service: str) -> dict[str, str]:
        return {
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"https://127.0.0.1:{self.grpc if protocol == 'grpc' else self.http}",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "OTEL_EXPORTER_OTLP_CERTIFICATE": str(self.folder / "ca.pem"),
            "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(self.folder / "client.key"),
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(self.folder / "client.pem"),
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_SERVICE_NAME": service,
            **dict.fromkeys(("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"), ""),  # of whoever runs the tests
        }


def certify(folder: Path) -> None:
    """An authority, and what it vouches for: the collector on loopback, and its client."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make certificates with")

    def make(*words: str) -> None:
        new = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *words]
        subprocess.run(new, cwd=folder, check=True, capture_output=True)

    make("-subj", "/CN=authority", "-addext", "keyUsage=critical,keyCertSign", "-keyout", "ca.key", "-out", "ca.pem")
    for name in ("server", "client"):
        names = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-CA", "ca.pem", "-CAkey", "ca.key"]
        make(*names, "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", f"{name}.key", "-out", f"{name}.pem")


@pytest.fixture(scope="module")
def secured(otelcol: Path, jaeger: Jaeger, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("tls")
    certify(folder)
    grpc, http = free_ports(2)
    (folder / "tls.yaml").write_text(CONFIG.format(grpc=grpc, http=http, folder=folder, store=jaeger.address))
    process = ReceiverProcess(
        [str(otelcol), "--config", str(folder / "tls.yaml")], [grpc, http], folder / "otelcol.log", {}
    )
    process.wait_until_ready()
    yield Secured(grpc, http, folder, jaeger)
    process.stop()


@pytest.fixture
def export(secured: Secured, tmp_path: Path) -> Callable[..., started.Ended]:
    """Run the program; `changes` take the place of variables, an empty one counts as unset."""

    def run(protocol: str, service: str, **changes: str) -> started.Ended:
        variables = secured.variables(protocol, service) | changes
        (tmp_path / "secured.py").write_text(PROGRAM)
        return started.run(sys.executable, "secured.py", folder=tmp_path, **variables)

    return run


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_spans_arrive_over_tls_from_a_client_that_is_vouched_for(
    secured: Secured, export: Callable[..., started.Ended], protocol: str
) -> None:
    service = f"vouched-for-{protocol[:4]}"
    ended = export(protocol, service)
    assert (ended.status, ended.err) == (0, "")
    until(
        lambda: len(named(secured.jaeger.spans_of(service), "task fetch")) == 1,
        PATIENCE,
        "the span behind the collector",
    )


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_without_a_certificate_nothing_arrives_and_the_program_is_unharmed(
    secured: Secured, export: Callable[..., started.Ended], protocol: str
) -> None:
    """It says so on its log, and ends in time."""
    without = {"OTEL_EXPORTER_OTLP_CLIENT_KEY": "", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": ""}
    service = f"unknown-{protocol[:4]}"
    ended = export(protocol, service, **without, OTEL_EXPORTER_OTLP_TIMEOUT="2")
    assert ended.status == 0
    assert "opentelemetry" in ended.err or "Transient error" in ended.err or "Failed to export" in ended.err, ended.err
    assert named(secured.jaeger.spans_of(service), "task fetch") == []
