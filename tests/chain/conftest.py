"""The components, found or built once, and one whole chain for the session. What cannot be had skips its tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from .components import ROOT, Alertmanager, Collector, Prometheus, Webhook
from .jaeger import Jaeger


@cache
def _found() -> dict[str, str]:
    script = [sys.executable, str(ROOT / "scripts" / "backends.py")]
    said = subprocess.run(script, stdout=subprocess.PIPE, text=True, check=True).stdout
    return dict(line.split(" ", 1) for line in said.splitlines())


def component(name: str) -> Path:
    """Where a component is; without it the test is skipped, and in CI that is a failure."""
    place = _found()[name]
    if place.startswith("- "):
        pytest.skip(f"no {name} here: {place[2:]}")
    return Path(place)


@pytest.fixture(scope="session")
def otelcol() -> Path:
    return component("otelcol")


@pytest.fixture(scope="session")
def jaeger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    """Keeps all spans it gets, and gives them back exactly."""
    yield from running(tmp_path_factory)


@pytest.fixture(scope="session")
def second_jaeger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    """For the second of two gateways."""
    yield from running(tmp_path_factory)


def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    jaeger = Jaeger.start(component("jaeger"), tmp_path_factory.mktemp("jaeger"))
    yield jaeger
    jaeger.stop()


@pytest.fixture
def collect(otelcol: Path, tmp_path: Path) -> Iterator[Callable[..., Collector]]:
    """Starts collectors: `collect("collector.yaml", OTELCOL_BACKEND=…)`."""
    started: list[Collector] = []

    def start(config: str, **variables: str) -> Collector:
        started.append(Collector.start(otelcol, config, tmp_path, **variables))
        return started[-1]

    yield start
    for collector in started:
        collector.stop()


@dataclass
class Chain:
    """From OTLP to the webhook. Services are told apart by their names."""

    collector: Collector
    jaeger: Jaeger
    prometheus: Prometheus
    webhook: Webhook


@pytest.fixture(scope="session")
def chain(otelcol: Path, jaeger: Jaeger, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Everything as shipped, but that nothing of the healthy rest is kept, so that what is kept has its reason."""
    directory = tmp_path_factory.mktemp("chain")
    programs = component("prometheus"), component("alertmanager")
    webhook = Webhook.start()
    collector = Collector.start(
        otelcol,
        "collector.yaml",
        directory,
        OTELCOL_BACKEND=jaeger.address,
        OTELCOL_DECISION_WAIT="3s",
        OTELCOL_SAMPLING_PERCENTAGE="0",
    )
    alertmanager = Alertmanager.start(programs[1], directory, webhook)
    prometheus = Prometheus.start(programs[0], directory, collector, alertmanager.port)
    yield Chain(collector, jaeger, prometheus, webhook)
    for process in (prometheus.process, alertmanager.process, collector, webhook):
        process.stop()
