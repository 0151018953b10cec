"""What the README of collector-config says to start is started, word for word, and a program's block arrives."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .components import SHIPPED
from .conftest import component

NAMES = ("otelcol", "jaeger", "prometheus", "alertmanager")
ALONE = ("unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
SERVICE = """
import asyncio, time

async def work():
    time.sleep(0.5)

asyncio.run(work())
"""
LOOK = """
import sys, time, urllib.parse, urllib.request

ASKED = {
    "up": ("http://127.0.0.1:13133/", "http://127.0.0.1:16686/", "http://127.0.0.1:9090/-/ready", "http://127.0.0.1:9093/-/ready"),
    "arrived": (
        "http://127.0.0.1:16686/api/traces?service=demo::block work",
        "http://127.0.0.1:9090/api/v1/query?query=" + urllib.parse.quote("asyncio_problems_total == 1") + "::loop_blocked",
    ),
}

def answers(asked):
    url, _, wanted = asked.partition("::")
    try:
        return wanted in urllib.request.urlopen(url, timeout=10).read().decode()
    except OSError:
        return False

deadline = time.monotonic() + 90
for asked in ASKED[sys.argv[1]]:
    while not answers(asked):
        if time.monotonic() > deadline:
            sys.exit(f"not {sys.argv[1]}: {asked}")
        time.sleep(0.2)
"""
"""Waits for what it is asked for."""


@pytest.mark.timeout(240)  # Prometheus reads four times a minute
def test_the_commands_of_the_readme_work_as_they_stand(tmp_path: Path) -> None:
    if not shutil.which("ip") or subprocess.run([*ALONE, "true"], capture_output=True).returncode != 0:
        pytest.skip(
            "needs rights that this machine does not give: its ports are fixed, so it wants a network of its own"
        )
    (block,) = re.findall(r"## Start\n\n```sh\n(.*?)```", (SHIPPED / "README.md").read_text(), re.DOTALL)
    _, *starting, program = block.splitlines()
    _prepare(tmp_path)
    script = ["ip link set lo up", *starting, "python look.py up &&", program, "python look.py arrived"]
    alone = [*ALONE, "sh", "-c", "\n".join(script)]
    path = os.pathsep.join((str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")} | {"PATH": path}
    done = subprocess.run(alone, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def _prepare(folder: Path) -> None:
    """The folder of somebody who has all programs on the path."""
    shutil.copytree(SHIPPED, folder / "collector-config")
    (folder / "bin").mkdir()
    for name in NAMES:
        (folder / "bin" / name).symlink_to(component(name))
    (folder / "service.py").write_text(SERVICE)
    (folder / "look.py").write_text(LOOK)
