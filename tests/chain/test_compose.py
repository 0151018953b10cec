"""`docker compose up` with the file as shipped, in a real engine: all of it runs, locked up as it is, and works together.

The images are made here, of the programs that the other tests of the chain run; Grafana cannot be had.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
from integration.receivers import until

from .components import SHIPPED
from .conftest import component
from .engine import RECIPES, Engine, NoEngine
from .service import environment

PROGRAMS = {"collector": "otelcol"}
"""What `scripts/backends.py` calls a service's program, where that is not its own name."""
PATIENCE = 100.0

COUNTED = 'asyncio_problems_total{job="composed", asyncio_problem="loop_blocked"} == 1'

READ = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())"
BLOCKS = """
import asyncio, time
import otel_asyncio

async def main():
    time.sleep(0.5)

otel_asyncio.configure()
asyncio.run(main())
"""


@dataclass
class Composed:
    engine: Engine
    containers: dict[str, dict[str, Any]]

    def read(self, url: str) -> Any:
        done = subprocess.run(self.engine.inside(sys.executable, "-c", READ, url), capture_output=True, text=True)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def query(self, expression: str) -> list[Any]:
        answer = self.read(f"http://127.0.0.1:9090/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
        return answer["data"]["result"] if answer else []


@pytest.fixture(scope="module")
def composed(request: pytest.FixtureRequest) -> Iterator[Composed]:
    yaml = pytest.importorskip("yaml")
    for needed in ("dockerd", "docker"):
        component(needed)
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode != 0:
        component("docker-compose")
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        pytest.skip("an engine of one's own takes root and a network namespace")
    services = yaml.safe_load((SHIPPED / "compose.yaml").read_text())["services"]
    programs = {service: component(PROGRAMS.get(service, service)) for service in RECIPES}
    try:
        engine = Engine.start()
    except NoEngine as refused:
        _give_up(request, refused)
    try:
        for service, program in programs.items():
            engine.make_image(service, services[service]["image"], program)
        try:
            engine.see_it_run(services["prometheus"]["image"])
        except NoEngine as refused:
            _give_up(request, refused)
        engine.compose("up", "-d", *RECIPES)
        yield Composed(engine, _containers(engine))
        engine.compose("down", "-v")
    finally:
        engine.stop()


def _give_up(request: pytest.FixtureRequest, refused: NoEngine) -> NoReturn:
    """Nobody can have an engine where the machine's own jail forbids it: said aloud, and no failure, in CI neither."""
    terminal = request.config.pluginmanager.getplugin("terminalreporter")
    terminal.write_line(f"\ncompose.yaml was NOT RUN: {refused}", red=True)
    pytest.skip("needs rights that this machine does not give: compose.yaml was NOT RUN")


def _containers(engine: Engine) -> dict[str, dict[str, Any]]:
    found = engine.inspect(*engine.docker("ps", "-aq").split())
    return {each["Config"]["Labels"]["com.docker.compose.service"]: each for each in found}


def _healthy(composed: Composed) -> bool:
    targets = composed.read("http://127.0.0.1:9090/api/v1/targets")
    return bool(targets) and {"up"} == {target["health"] for target in targets["data"]["activeTargets"]}


@pytest.fixture(scope="module")
def running(composed: Composed) -> Composed:
    """Once Prometheus has read from everybody."""
    until(lambda: _healthy(composed), PATIENCE, "everything up")
    return composed


def test_everything_runs_and_nothing_had_to_be_started_twice(running: Composed) -> None:
    states = {name: each["State"]["Status"] for name, each in _containers(running.engine).items()}
    assert states == dict.fromkeys(RECIPES, "running")
    assert {each["RestartCount"] for each in _containers(running.engine).values()} == {0}


def test_what_runs_is_locked_up(running: Composed) -> None:
    for each in running.containers.values():
        host = each["HostConfig"]
        assert (host["ReadonlyRootfs"], host["CapDrop"]) == (True, ["ALL"])
        assert [option.partition(":")[0] for option in host["SecurityOpt"]] == ["no-new-privileges"]


def test_all_that_listens_listens_on_loopback(running: Composed) -> None:
    """In a network that has nobody else in it."""
    listening = [
        line.split()[1]
        for family in ("tcp", "tcp6")
        for line in Path(f"/proc/{running.engine.daemon.pid}/net/{family}").read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    ]
    assert len(listening) > 8
    loopback = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")
    assert [address for address in listening if not address.startswith(loopback)] == []


@pytest.mark.parametrize("service", RECIPES)
def test_nothing_complains(running: Composed, service: str) -> None:
    said = running.engine.docker("logs", running.containers[service]["Id"])
    complaints = [line for line in said.splitlines() if re.search(r"\t(warn|error)\t|level=(warn|error)", line)]
    known = ("ui assets not embedded", "createTransport")  # of such a build; Jaeger was not there yet
    assert [line for line in complaints if not any(each in line for each in known)] == []


def test_a_block_in_a_program_is_in_jaeger_and_in_prometheus(running: Composed) -> None:
    program = running.engine.inside(sys.executable, "-c", BLOCKS)
    subprocess.run(program, env=environment("http://127.0.0.1:4318", "http/protobuf", "composed"), check=True)
    traces = "http://127.0.0.1:16686/api/traces?service=composed"

    def spans() -> set[str]:
        answer = running.read(traces)
        return {span["operationName"] for trace in answer["data"] for span in trace["spans"]} if answer else set()

    until(lambda: "block main" in spans(), PATIENCE, "the block in Jaeger")
    until(lambda: bool(running.query(COUNTED)), PATIENCE, "its count in Prometheus")


def test_prometheus_tells_alertmanager(running: Composed) -> None:
    def known() -> bool:
        answer = running.read("http://127.0.0.1:9090/api/v1/alertmanagers")
        return bool(answer and answer["data"]["activeAlertmanagers"])

    until(known, PATIENCE, "Alertmanager found")
    assert running.read("http://127.0.0.1:9093/api/v2/status")["cluster"]["status"] in ("ready", "disabled")
