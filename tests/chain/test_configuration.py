"""Every file of collector-config is accepted by the program it is for, and says nothing it should not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from otel_asyncio.observe.problems import ProblemKind

from .components import ROOT, SHIPPED, Collector, output_of
from .conftest import component
from .jaeger import Jaeger

COLLECTORS = ("collector.yaml", "agent.yaml", "gateway.yaml")
ALERTS = (SHIPPED / "alerts.yaml").read_text()
TESTS = (SHIPPED / "alerts_test.yaml").read_text()
NAMES = re.findall(r"^ +- alert: (\w+)$", ALERTS, re.MULTILINE)


@pytest.mark.parametrize("config", COLLECTORS)
def test_the_collector_accepts_it(config: str, otelcol: Path) -> None:
    output_of(otelcol, "validate", "--config", config)


@pytest.mark.parametrize("config", COLLECTORS)
def test_the_collector_runs_it_without_a_complaint(config: str, otelcol: Path, tmp_path: Path) -> None:
    collector = Collector.start(
        otelcol, config, tmp_path, OTELCOL_BACKEND="127.0.0.1:1", OTELCOL_GATEWAYS="[127.0.0.1:1]"
    )
    collector.stop()
    assert [line for line in collector.complaints() if "127.0.0.1:1" not in line] == []  # where nobody listens


def test_jaeger_runs_its_configuration_without_a_complaint(tmp_path: Path) -> None:
    running = Jaeger.start(component("jaeger"), tmp_path)
    running.stop()
    assert [line for line in running.complaints() if "ui assets not embedded" not in line] == []  # as in any such build


def test_prometheus_accepts_its_configuration() -> None:
    output_of(component("promtool"), "check", "config", "prometheus.yaml")


def test_prometheus_accepts_the_rules() -> None:
    assert "SUCCESS" in output_of(component("promtool"), "check", "rules", "alerts.yaml")


def test_the_rules_fire_when_they_should_and_stay_quiet_otherwise() -> None:
    assert "SUCCESS" in output_of(component("promtool"), "test", "rules", "alerts_test.yaml")


def test_alertmanager_accepts_its_configuration() -> None:
    assert "SUCCESS" in output_of(component("amtool"), "check-config", "alertmanager.yaml")


@pytest.mark.parametrize("name", NAMES)
def test_every_alert_has_a_test_in_which_it_fires(name: str) -> None:
    assert re.search(rf'alertname="{name}", alertstate="firing"', TESTS)


@pytest.mark.parametrize("name", NAMES)
def test_every_alert_has_a_summary_a_runbook_and_a_severity(name: str) -> None:
    rule = re.split(r"^ +- (?:alert|record|name):", ALERTS.split(f"- alert: {name}\n")[1], flags=re.MULTILINE)[0]
    assert all(re.search(rf"{word}: *\S", rule) for word in ("summary", "runbook", "severity"))


def test_the_problems_that_alerts_name_exist() -> None:
    named = {word for words in re.findall(r'asyncio_problem!?~?="([^"]+)"', ALERTS) for word in words.split("|")}
    assert named <= set(ProblemKind)


def test_gateway_and_collector_sample_and_count_alike() -> None:
    def middle(config: str) -> str:
        text = (SHIPPED / config).read_text()
        return text[text.index("  filter/only_problems:") : text.index("  prometheus:")]

    assert middle("gateway.yaml") == middle("collector.yaml")


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.name)
def test_nothing_listens_beyond_this_machine(path: Path) -> None:
    assert "0.0.0.0" not in path.read_text()
    assert "[::]" not in path.read_text()


def test_the_dashboard_asks_for_series_that_rules_or_readme_know() -> None:
    dashboard = json.loads((SHIPPED / "grafana-dashboard.json").read_text())
    readme = (SHIPPED.parent / "README.md").read_text()
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"\b((?:asyncio|otel\w*)_\w+?)(?:_bucket|_count|_sum)?(?=[{\[])", target["expr"])
    }
    assert [name for name in sorted(asked) if name not in ALERTS + readme] == []


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    found: dict[str, Any] = yaml.safe_load((SHIPPED / "compose.yaml").read_text())
    return found


def mounts(service: dict[str, Any]) -> list[list[str]]:
    """Source, target and mode of each."""
    return [each.split(":") for each in service.get("volumes", ())]


def test_compose_mounts_files_that_there_are_and_volumes_that_it_names(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for source, target, *_ in mounts(service):
            assert target.startswith("/")
            assert (SHIPPED / source).is_file() if source.startswith("./") else source in compose["volumes"]


def test_compose_mounts_files_read_only_and_gives_nothing_away(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert all(mode == ["ro"] for source, _, *mode in mounts(service) if source.startswith("./"))
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "ports" not in service  # the host's network: what listens says where in its own file


def test_compose_starts_each_program_with_the_file_that_it_mounts(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for named in [word.rpartition("=")[2] for word in service.get("command", ()) if word.endswith(".yaml")]:
            assert named in [target for _, target, *_ in mounts(service)]


def test_compose_has_the_versions_that_are_tested(compose: dict[str, Any]) -> None:
    images = {name: service["image"].partition(":")[2] for name, service in compose["services"].items()}
    builder = (SHIPPED / "builder.yaml").read_text()
    assert f"\n  version: {images['collector']}\n" in builder
    assert f'"v{images["jaeger"]}"' in (ROOT / "scripts" / "_from_go.py").read_text()
    assert "latest" not in images.values()


@pytest.mark.parametrize(
    ("sender", "address", "receiver"),
    (
        ("collector.yaml", "OTELCOL_BACKEND:-127.0.0.1:14317", "jaeger.yaml"),
        ("prometheus.yaml", "127.0.0.1:8889", "collector.yaml"),
        ("prometheus.yaml", "127.0.0.1:8888", "collector.yaml"),
        ("prometheus.yaml", "127.0.0.1:9093", "compose.yaml"),
        ("compose.yaml", "127.0.0.1:16686", "jaeger.yaml"),
        ("compose.yaml", "127.0.0.1:9090", "compose.yaml"),
    ),
)
def test_who_sends_and_who_listens_name_the_same_port(sender: str, address: str, receiver: str) -> None:
    port = address.rpartition(":")[2]
    assert address in (SHIPPED / sender).read_text()
    assert re.search(rf"(:-?|port: .*:-){port}\b", (SHIPPED / receiver).read_text())
