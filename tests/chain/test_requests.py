"""A plain request of a web framework, in Jaeger: was the answer slow, or the loop busy?"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from tempfile import TemporaryFile

import pytest
from integration.otlp import Span

from .components import Collector
from .jaeger import Jaeger
from .service import start

FRAMEWORKS = ("fastapi", "aiohttp")
LONG = 0.25
"""Seconds: a little less than the program takes in each way."""


@pytest.fixture(scope="module")
def segments() -> dict[str, dict[str, Span]]:
    """By framework and path, once they have been asked for."""
    return {}


@pytest.fixture(params=FRAMEWORKS)
def requests(
    request: pytest.FixtureRequest,
    segments: dict[str, dict[str, Span]],
    collect: Callable[..., Collector],
    jaeger: Jaeger,
) -> dict[str, Span]:
    """The segment of each request, by the path that was asked for."""
    name = request.param
    if name not in segments:
        everything = {"OTELCOL_DECISION_WAIT": "1s", "OTELCOL_SAMPLING_PERCENTAGE": "100"}
        collector = collect("collector.yaml", OTELCOL_BACKEND=jaeger.address, **everything)
        run_to_end(name, collector.endpoint("http/protobuf"))
        collector.wait_until_done()
        segments[name] = _segments(jaeger.spans_of(f"web-{name}"))
    return segments[name]


def run_to_end(framework: str, endpoint: str) -> None:
    with TemporaryFile("w+") as errors:
        process = start(
            "web.py", framework, errors=errors, endpoint=endpoint, protocol="http/protobuf", name=f"web-{framework}"
        )
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        errors.seek(0)
        assert process.returncode == 0, errors.read()[-4000:]


def _segments(spans: list[Span]) -> dict[str, Span]:
    servers = {span.span_id: span for span in spans if span.kind == "SERVER"}
    return {
        str(
            servers[span.parent_id].attributes.get("http.route") or servers[span.parent_id].attributes["http.target"]
        ): span
        for span in spans
        if span.attributes.get("asyncio.task.kind") == "root_segment"
    }


def split(span: Span) -> dict[str, float]:
    return {part: span.seconds(f"asyncio.task.{part}_time") for part in ("busy", "scheduled", "idle")}


@pytest.mark.parametrize("part", ("idle", "busy", "scheduled"))
def test_a_plain_request_says_where_its_time_went(requests: dict[str, Span], part: str) -> None:
    times = split(requests[f"/{part}"])
    assert times[part] >= LONG
    assert max(times, key=times.__getitem__) == part


def test_the_parts_add_up_to_the_request(requests: dict[str, Span]) -> None:
    for span in requests.values():
        assert sum(split(span).values()) == pytest.approx((span.end - span.start) / 1e9, abs=1e-3)
