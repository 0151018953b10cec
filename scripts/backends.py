#!/usr/bin/env python3
"""Get the backends that the chain is tested with, and print where they are: `python3 scripts/backends.py`.

- `otelcol`: the OpenTelemetry Collector, built from collector-config/builder.yaml with OpenTelemetry's builder, into
  the cache (OTEL_ASYNCIO_CACHE, else the user's). Takes Go and its module proxy; minutes at first, then nothing.
- `prometheus`, `promtool`, `alertmanager`, `amtool`: from PATH; root on Debian gets them from Debian's packages.

Prints `name path` for what there is and `name - reason` for what cannot be had. Everything is pinned or packaged;
nothing is built or installed that is there already.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from _places import ROOT, cache_folder

BUILDER_YAML = ROOT / "collector-config" / "builder.yaml"
BUILD_TIMEOUT_SECONDS = 1200
PACKAGES = ("prometheus", "prometheus-alertmanager")
# Each with the names it goes by: Debian calls the server of alertmanager after its package.
PACKAGED = {
    "prometheus": ("prometheus",),
    "promtool": ("promtool",),
    "alertmanager": ("alertmanager", "prometheus-alertmanager"),
    "amtool": ("amtool",),
}
GO_ENVIRONMENT = {"GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOTELEMETRY": "off", "GOFLAGS": ""}


class Unavailable(Exception):
    """This cannot be had on this machine; says why, on one line."""


def collector() -> Path:
    """The collector's binary; built if this manifest has not been built yet."""
    manifest = BUILDER_YAML.read_text(encoding="utf-8")
    name = f"otelcol-{hashlib.sha256(manifest.encode()).hexdigest()[:12]}"
    binary = cache_folder() / "backends" / name
    binary.parent.mkdir(parents=True, exist_ok=True)
    with _locked(binary.with_suffix(".lock")):
        if not binary.exists():
            _build_collector(manifest, binary)
    return binary


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build_collector(manifest: str, binary: Path) -> None:
    """With the builder of the same version, in a folder of its own; only a whole binary gets its name."""
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        raise Unavailable("there is no Go to build it with")
    version = re.search(r"^ +version: (\S+)$", manifest, re.MULTILINE)
    output = re.search(r"^ +output_path: (\S+)$", manifest, re.MULTILINE)
    if version is None or output is None:
        raise Unavailable(f"{BUILDER_YAML.name} names no version or no output_path")
    with tempfile.TemporaryDirectory(prefix="otelcol-", dir=binary.parent) as name:
        folder = Path(name)
        (folder / "builder.yaml").write_text(manifest, encoding="utf-8")
        builder = f"go.opentelemetry.io/collector/cmd/builder@v{version[1]}"
        _run([go, "run", builder, "--config", "builder.yaml"], folder, GO_ENVIRONMENT)
        (folder / output[1] / "otelcol").rename(binary)


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
    with _locked(Path(tempfile.gettempdir(), "otel-asyncio-apt.lock")):
        if all(map(_on_path, PACKAGED)):  # somebody else was quicker
            return True
        _run(["apt-get", "update", "-q"], ROOT, environment)
        _run(["apt-get", "install", "-y", "-q", "--no-install-recommends", *PACKAGES], ROOT, environment)
    return True


def _run(command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
    """Run it to its end; its output is for people, on standard error."""
    print(" ".join(command), file=sys.stderr, flush=True)
    try:
        subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            timeout=BUILD_TIMEOUT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(str(error).replace("\n", " ")) from error


def find_all() -> tuple[dict[str, Path], dict[str, str]]:
    """What there is, and why the rest is not."""
    found: dict[str, Path] = {}
    missing: dict[str, str] = {}
    for name in ("otelcol", *PACKAGED):
        try:
            found[name] = collector() if name == "otelcol" else packaged(name)
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
