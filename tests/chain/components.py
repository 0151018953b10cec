"""The components as processes on free ports of loopback, each with the configuration as shipped."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self, TypeVar

from integration.receivers import ATTEMPTS, ReceiverProcess, StartFailed, free_ports, until

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "collector-config"
PATIENCE = 30.0
T = TypeVar("T")


def on_free_ports(count: int, start: Callable[[list[int]], T]) -> T:
    """Somebody may take a port between its choice and its use: then others are chosen."""
    for _ in range(ATTEMPTS - 1):
        try:
            return start(free_ports(count))
        except StartFailed:
            continue
    return start(free_ports(count))


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        text: str = answer.read().decode()
    return text


@dataclass
class Collector:
    """A collector with a file of collector-config, which takes its addresses from the environment."""

    command: list[str]
    variables: dict[str, str]
    ports: dict[str, int]
    output: Path
    process: ReceiverProcess | None = None

    @classmethod
    def start(cls, binary: Path, config: str, directory: Path, **variables: str) -> Self:
        """`variables` go on top: `OTELCOL_BACKEND`, for one."""

        def once(ports: list[int]) -> Self:
            names = ("grpc", "http", "health", "prometheus", "own")
            chosen = dict(zip(names, ports, strict=True))
            collector = cls(
                [str(binary), "--config", str(SHIPPED / config)],
                _addresses(chosen) | variables,
                chosen,
                directory / f"{Path(config).stem}-{chosen['grpc']}.log",
            )
            collector.run()
            return collector

        return on_free_ports(5, once)

    def run(self) -> None:
        """Start it; again, on the same ports, after `stop` or `kill`."""
        waited_for = [self.ports[name] for name in ("grpc", "health", "prometheus", "own")]
        self.process = ReceiverProcess(self.command, waited_for, self.output, self.variables)
        self.process.wait_until_ready()
        until(self._is_healthy, PATIENCE, "the collector being ready")

    def _is_healthy(self) -> bool:
        try:
            return "available" in read(f"http://127.0.0.1:{self.ports['health']}/")
        except OSError:
            return False

    def stop(self) -> None:
        """Let it finish what it has."""
        assert self.process
        self.process.stop()

    def kill(self) -> None:
        """What it holds is lost."""
        assert self.process
        self.process.kill()

    def endpoint(self, protocol: str) -> str:
        return f"http://127.0.0.1:{self.ports['grpc' if protocol == 'grpc' else 'http']}"

    def of_programs(self) -> dict[str, float]:
        """What Prometheus would read here, as series and value."""
        return series_of(read(f"http://127.0.0.1:{self.ports['prometheus']}/metrics"))

    def of_itself(self, name: str, labels: str = "") -> float:
        """The sum of one of its own counters, over the series that have this among their labels."""
        own = series_of(read(f"http://127.0.0.1:{self.ports['own']}/metrics"))
        return sum(value for series, value in own.items() if series.partition("{")[0] == name and labels in series)

    def is_done(self) -> bool:
        """Whether it has decided upon every trace, and sent what it keeps."""
        kept = self.of_itself("otelcol_processor_outgoing_items", 'processor="filter/')
        undecided = self.of_itself("otelcol_processor_tail_sampling_sampling_traces_on_memory")
        return undecided == 0 and kept == self.of_itself("otelcol_exporter_sent_spans")

    def wait_until_done(self) -> None:
        """Once what was sent to it is through. Seen some times in a row: spans on the way to the sampler show nowhere."""
        seen: list[bool] = []

        def is_through() -> bool:
            seen.append(self.is_done())
            return len(seen) > 5 and all(seen[-5:])

        until(is_through, PATIENCE, "the collector having sent everything")

    def complaints(self) -> list[str]:
        """The warnings and errors of its log."""
        return complaints(self.output)


def complaints(output: Path) -> list[str]:
    """The warnings and errors in the log of a collector, or of what is built like one."""
    return [line for line in output.read_text().splitlines() if re.search(r"\t(warn|error)\t", line)]


def _addresses(ports: Mapping[str, int]) -> dict[str, str]:
    listen = {
        f"OTELCOL_{name.upper()}": f"127.0.0.1:{ports[name]}" for name in ("grpc", "http", "health", "prometheus")
    }
    return {**listen, "OTELCOL_OWN_METRICS_PORT": str(ports["own"]), "OTELCOL_FLUSH_INTERVAL": "1s"}


def series_of(exposition: str) -> dict[str, float]:
    lines = [line for line in exposition.splitlines() if line and not line.startswith("#")]
    return {series: float(value) for series, value in (line.rsplit(" ", 1) for line in lines)}


def scaled(text: str) -> str:
    """A configuration of Prometheus or Alertmanager with minutes made seconds, and hours minutes."""
    smaller = {"s": lambda n: "1s", "m": lambda n: f"{n}s", "h": lambda n: f"{n}m"}
    return re.sub(r"(?<![\w.])(\d+)([smh])\b", lambda found: smaller[found[2]](found[1]), text)


@dataclass
class Prometheus:
    process: ReceiverProcess
    url: str

    @classmethod
    def start(cls, binary: Path, directory: Path, collector: Collector, alertmanager: int) -> Self:
        """prometheus.yaml and alerts.yaml as shipped, but for the addresses and the pace of time."""
        config = scaled((SHIPPED / "prometheus.yaml").read_text())
        for shipped, port in (
            (8889, collector.ports["prometheus"]),
            (8888, collector.ports["own"]),
            (9093, alertmanager),
        ):
            assert f"127.0.0.1:{shipped}" in config
            config = config.replace(f"127.0.0.1:{shipped}", f"127.0.0.1:{port}")
        (directory / "prometheus.yaml").write_text(config)
        (directory / "alerts.yaml").write_text(scaled((SHIPPED / "alerts.yaml").read_text()))

        def once(ports: list[int]) -> Self:
            address = f"127.0.0.1:{ports[0]}"
            command = [str(binary), "--config.file=prometheus.yaml", f"--web.listen-address={address}"]
            options = ["--storage.tsdb.path=data", "--enable-feature=exemplar-storage"]
            process = ReceiverProcess([*command, *options], ports, directory / "prometheus.log", {})
            process.wait_until_ready()
            return cls(process, f"http://{address}")

        return on_free_ports(1, once)

    def query(self, expression: str) -> list[dict[str, Any]]:
        answer = json.loads(read(f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"))
        assert answer["status"] == "success", answer
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def value(self, expression: str) -> float:
        """Of an expression that gives one number; 0 where there is none."""
        return sum(float(each["value"][1]) for each in self.query(expression))

    def exemplars(self, expression: str) -> list[dict[str, str]]:
        """The labels of all exemplars of the last hour."""
        asked = urllib.parse.urlencode({"query": expression, "start": "0", "end": "99999999999"})
        answer = json.loads(read(f"{self.url}/api/v1/query_exemplars?{asked}"))
        return [each["labels"] for series in answer["data"] for each in series["exemplars"]]


@dataclass
class Alertmanager:
    process: ReceiverProcess
    port: int

    @classmethod
    def start(cls, binary: Path, directory: Path, webhook: Webhook) -> Self:
        """alertmanager.yaml as shipped, but for the receiver's address and the pace of time."""
        config = scaled((SHIPPED / "alertmanager.yaml").read_text())
        assert "http://127.0.0.1:9099/" in config
        (directory / "alertmanager.yaml").write_text(config.replace("http://127.0.0.1:9099/", webhook.url))

        def once(ports: list[int]) -> Self:
            command = [str(binary), "--config.file=alertmanager.yaml", "--cluster.listen-address="]
            options = [f"--web.listen-address=127.0.0.1:{ports[0]}", "--storage.path=kept"]
            process = ReceiverProcess([*command, *options], ports, directory / "alertmanager.log", {})
            process.wait_until_ready()
            return cls(process, ports[0])

        return on_free_ports(1, once)


@dataclass
class Webhook:
    """Where the pager would be: keeps what it is told."""

    server: ThreadingHTTPServer
    told: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def start(cls) -> Self:
        told: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                told.extend(body["alerts"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Nothing: the tests say what they miss."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return cls(server, told)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/"

    def of(self, job: str) -> set[str]:
        """The names of the alerts that came for a job."""
        return {alert["labels"]["alertname"] for alert in list(self.told) if alert["labels"].get("job") == job}

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def output_of(*command: str | Path) -> str:
    """What a checking command says; that it fails is a failure of the test."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=SHIPPED)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
