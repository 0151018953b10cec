#!/usr/bin/env python3
"""Get the backends that the chain is tested with, and print where they are: `python3 scripts/backends.py`.

- `otelcol`: the OpenTelemetry Collector, built from collector-config/builder.yaml with OpenTelemetry's builder, and
  `jaeger`, both into the cache (OTEL_ASYNCIO_CACHE, else the user's). Takes Go and its module proxy; minutes at first,
  then nothing.
- `prometheus`, `promtool`, `alertmanager`, `amtool`: from PATH; root on Debian gets them from Debian's packages.

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
BUILT = {"otelcol": collector, "jaeger": jaeger}


def packaged(name: str) -> Path:
    """A program of Prometheus's."""
    found = _on_path(name)
    if found is None and _install():
        found = _on_path(name)
    if found is None:
        raise Unavailable(f"not on PATH, and not root on Debian, which would get {' and '.join(PACKAGES)}")
    return found


def _on_path(name: str) -> Path | None:
    found = next(filter(None, map(shutil.which, PACKAGED[name])), None)
    return Path(found) if found else None


def _install() -> bool:
    """Debian's packages. Where there is systemd they start their services: the tests have ports of their own."""
    if os.geteuid() != 0 or not Path("/etc/debian_version").exists():
        return False
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    with locked(Path(tempfile.gettempdir(), "otel-asyncio-apt.lock")):
        if all(map(_on_path, PACKAGED)):  # somebody else was quicker
            return True
        run(["apt-get", "update", "-q"], ROOT, environment)
        run(["apt-get", "install", "-y", "-q", "--no-install-recommends", *PACKAGES], ROOT, environment)
    return True


def find_all() -> tuple[dict[str, Path], dict[str, str]]:
    """What there is, and why the rest is not."""
    found: dict[str, Path] = {}
    missing: dict[str, str] = {}
    for name in (*BUILT, *PACKAGED):
        try:
            found[name] = BUILT[name]() if name in BUILT else packaged(name)
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
