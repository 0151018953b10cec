#!/usr/bin/env python3
"""Get the backends that the chain is tested with, and print where they are: `python3 scripts/backends.py`.

- `otelcol`: the OpenTelemetry Collector, built from collector-config/builder.yaml with OpenTelemetry's builder, and
  `jaeger`, both into the cache (OTEL_ASYNCIO_CACHE, else the user's). Takes Go and its module proxy; minutes at first,
  then nothing.
- `prometheus`, `promtool`, `alertmanager`, `amtool`: from PATH; root on Debian gets them from Debian's packages.
- `dockerd`, `docker`, `docker-compose`: from PATH. Root on Debian gets them where nothing may be missing
  (OTEL_ASYNCIO_NO_SKIP, as in CI); a test runs compose.yaml in an engine of its own.

Prints `name path` for what there is and `name - reason` for what cannot be had. Everything is pinned or packaged;
nothing is built or installed that is there already.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from _from_go import collector, jaeger
from _obtaining import Unavailable, locked, run
from _places import ROOT

PACKAGES = ("prometheus", "prometheus-alertmanager")
# Each with the names it goes by: Debian calls the server of alertmanager after its package.
PACKAGED = {
    "prometheus": ("prometheus",),
    "promtool": ("promtool",),
    "alertmanager": ("alertmanager", "prometheus-alertmanager"),
    "amtool": ("amtool",),
}
ENGINE_PACKAGES = ("docker.io", "docker-compose")
ENGINE = {name: (name,) for name in ("dockerd", "docker", "docker-compose")}
BUILT = {"otelcol": collector, "jaeger": jaeger}


def packaged(name: str) -> Path:
    """A program of Prometheus's."""
    return _from_packages(name, PACKAGED, PACKAGES)


def engine(name: str) -> Path:
    """A part of a Docker engine, which nobody gets who has not asked for it: it changes a machine's network."""
    if _on_path(ENGINE[name]) is None and not os.environ.get("OTEL_ASYNCIO_NO_SKIP"):
        raise Unavailable("not on PATH")
    return _from_packages(name, ENGINE, ENGINE_PACKAGES)


def _from_packages(name: str, programs: dict[str, tuple[str, ...]], packages: tuple[str, ...]) -> Path:
    found = _on_path(programs[name])
    if found is None and _install(programs, packages):
        found = _on_path(programs[name])
    if found is None:
        raise Unavailable(f"not on PATH, and not root on Debian, which would get {' and '.join(packages)}")
    return found


def _on_path(names: tuple[str, ...]) -> Path | None:
    found = next(filter(None, map(shutil.which, names)), None)
    return Path(found) if found else None


def _install(programs: dict[str, tuple[str, ...]], packages: tuple[str, ...]) -> bool:
    """Debian's packages. Where there is systemd they start their services: the tests have ports of their own."""
    if os.geteuid() != 0 or not Path("/etc/debian_version").exists():
        return False
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    with locked(Path(tempfile.gettempdir(), "otel-asyncio-apt.lock")):
        if all(map(_on_path, programs.values())):  # somebody else was quicker
            return True
        run(["apt-get", "update", "-q"], ROOT, environment)
        run(["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages], ROOT, environment)
    return True


def find_all() -> tuple[dict[str, Path], dict[str, str]]:
    """What there is, and why the rest is not."""
    found: dict[str, Path] = {}
    missing: dict[str, str] = {}
    for name in (*BUILT, *PACKAGED, *ENGINE):
        try:
            found[name] = BUILT[name]() if name in BUILT else engine(name) if name in ENGINE else packaged(name)
        except Unavailable as reason:
            missing[name] = str(reason)
    return found, missing


def main() -> int:
    """0, also if something is missing: who needs it decides."""
    found, missing = find_all()
    for name, path in found.items():
        print(name, path)
    for name, reason in missing.items():
        print(name, "-", reason)
    return 0


if __name__ == "__main__":
    sys.exit(main())
