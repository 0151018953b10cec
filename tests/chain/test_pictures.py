"""The traces that the README shows are what Jaeger gives back, but for times and ids.

To write them anew: `OTEL_ASYNCIO_WRITE_PICTURES=1 python -m pytest tests/chain/test_pictures.py`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile

from .components import SHIPPED, Collector
from .jaeger import Jaeger
from .service import TIMEOUT, start

README = SHIPPED / "README.md"
BEGIN, END = "<!-- traces, from Jaeger: written by tests/chain/test_pictures.py -->\n", "<!-- traces end -->\n"
PICTURES = {
    "GET /items": "A request and its tasks",
    "GET /search": "A slow await",
    "GET /invoice": "A blocked loop",
    "POST /checkout": "A cancellation",
    "POST /pay": "A deadline that passed",
}
ATTEMPTS = 3
"""On a crowded machine something else may be slow."""


def test_the_readme_shows_what_jaeger_gives_back(
    collect: Callable[..., Collector], jaeger: Jaeger, tmp_path: Path
) -> None:
    everything = {"OTELCOL_DECISION_WAIT": "1s", "OTELCOL_SAMPLING_PERCENTAGE": "100"}
    collector = collect("collector.yaml", OTELCOL_BACKEND=jaeger.address, **everything)
    shown = README.read_text().partition(BEGIN)[2].partition(END)[0]
    for attempt in range(ATTEMPTS):
        service = f"shop-{attempt}"
        open_for_a_while(collector.endpoint("grpc"), service)
        collector.wait_until_done()
        drawn = draw(jaeger, service, tmp_path).replace(service, "shop")
        if masked(drawn) == masked(shown):
            return
    if os.environ.get("OTEL_ASYNCIO_WRITE_PICTURES"):
        README.write_text(README.read_text().replace(f"{BEGIN}{shown}{END}", f"{BEGIN}{drawn}{END}"))
    assert masked(drawn) == masked(shown)


def open_for_a_while(endpoint: str, service: str) -> None:
    where = {"endpoint": endpoint, "protocol": "grpc", "name": service}
    with TemporaryFile("w+") as errors:
        process = start("shop.py", errors=errors, OTEL_PYTHON_ASYNCIO_AWAIT_THRESHOLD="150", **where)
        process.communicate(timeout=TIMEOUT)
        errors.seek(0)
        assert process.returncode == 0, errors.read()[-4000:]


def draw(jaeger: Jaeger, service: str, directory: Path) -> str:
    traces = {span.name: span.trace_id for span in jaeger.spans_of(service) if span.kind == "SERVER"}
    pictures = [
        f"{title}:\n\n```\n{picture(jaeger, traces[name], directory)}\n```\n" for name, title in PICTURES.items()
    ]
    return "\n".join(pictures)


def picture(jaeger: Jaeger, trace_id: str, directory: Path) -> str:
    """The problems and the tree, of all that `otel-asyncio view` prints."""
    saved = directory / "trace.json"
    saved.write_text(json.dumps(jaeger.asked(f"/api/v3/traces/{trace_id}")))
    command = [sys.executable, "-m", "otel_asyncio", "view", str(saved)]
    page = subprocess.run(
        command, env=os.environ | {"COLUMNS": "120", "NO_COLOR": "1"}, capture_output=True, text=True, check=True
    ).stdout
    paragraphs = [
        each for each in re.split(r"\n{2,}", page.strip())[1:] if not each.startswith(("bars:", "✓", "1 pro"))
    ]
    wanted = [each for each in paragraphs if re.match(r" +[✗!]|trace ", each)]
    return "\n\n".join("\n".join(line.rstrip() for line in each.splitlines()) for each in wanted)


def masked(text: str) -> str:
    """Without what no two runs have in common: the lengths of bars, times, ids, and how far things are apart."""
    text = re.sub(r"│[^│\n]*│", "│", text)
    text = re.sub(r"\b[0-9a-f]{8,32}\b", "…", text)
    text = re.sub(r"\b[\d.]+ (?:s|ms|µs)\b", "…", text)
    return re.sub(r" +", " ", text)


def test_the_readme_of_the_project_shows_one_of_them() -> None:
    shown = README.read_text().partition("A blocked loop:\n\n")[2].partition("```\n\n")[0]
    assert shown in (SHIPPED.parent / "README.md").read_text()
