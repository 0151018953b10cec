"""What nobody packages, built from Go modules at pinned versions; the checksum database vouches for downloads."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import monotonic

from _obtaining import Unavailable, locked, run, say_aside
from _places import ROOT, cache_folder

BUILDER_YAML = ROOT / "collector-config" / "builder.yaml"
ENVIRONMENT = {"GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOTELEMETRY": "off", "GOFLAGS": ""}
JAEGER = "github.com/jaegertracing/jaeger"
# Jaeger's releases from 2 on are no versions of its Go module; this one was tagged from the same commit as its 2.13.
JAEGER_VERSION, JAEGER_RELEASE = "v1.76.0", "v2.13.0"
# `go install` refuses a module with a replacement, and this is the one that it has.
JAEGER_MODULE = """module otel-asyncio.invalid/jaeger

replace github.com/Shopify/sarama => github.com/Shopify/sarama v1.33.0
"""
Build = Callable[[str, Path], Path]
"""With this Go, in this empty folder; returns the binary."""


def collector() -> Path:
    """The collector's binary; built if this manifest has not been built yet."""
    manifest = BUILDER_YAML.read_text(encoding="utf-8")
    return _built("otelcol", manifest, lambda go, folder: _build_collector(go, folder, manifest))


def jaeger() -> Path:
    """Jaeger's binary, without the pages of its UI: they are no part of the Go module."""
    return _built("jaeger", f"{JAEGER_VERSION} {JAEGER_RELEASE} {JAEGER_MODULE}", _build_jaeger)


def _built(name: str, recipe: str, build: Build) -> Path:
    """Only a whole binary gets its name."""
    binary = cache_folder() / "backends" / f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    binary.parent.mkdir(parents=True, exist_ok=True)
    with locked(binary.with_suffix(".lock")):
        if not binary.exists():
            go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
            if go is None:
                raise Unavailable("there is no Go to build it with")
            began = monotonic()
            with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=binary.parent) as folder:
                build(go, Path(folder)).rename(binary)
            say_aside(f"built {name} in {monotonic() - began:.0f} s")
    return binary


def _build_collector(go: str, folder: Path, manifest: str) -> Path:
    """With the builder of the same version."""
    version = re.search(r"^ +version: (\S+)$", manifest, re.MULTILINE)
    output = re.search(r"^ +output_path: (\S+)$", manifest, re.MULTILINE)
    if version is None or output is None:
        raise Unavailable(f"{BUILDER_YAML.name} names no version or no output_path")
    (folder / "builder.yaml").write_text(manifest, encoding="utf-8")
    builder = f"go.opentelemetry.io/collector/cmd/builder@v{version[1]}"
    run([go, "run", builder, "--config", "builder.yaml"], folder, ENVIRONMENT)
    return folder / output[1] / "otelcol"


def _build_jaeger(go: str, folder: Path) -> Path:
    """As a tool of a module that has its replacement."""
    (folder / "go.mod").write_text(JAEGER_MODULE, encoding="utf-8")
    flags = f"-s -w -X {JAEGER}/internal/version.latestVersion={JAEGER_RELEASE}"
    run([go, "get", "-tool", f"{JAEGER}/cmd/jaeger@{JAEGER_VERSION}"], folder, ENVIRONMENT)
    run([go, "build", "-trimpath", "-ldflags", flags, "-o", "jaeger", f"{JAEGER}/cmd/jaeger"], folder, ENVIRONMENT)
    return folder / "jaeger"
