"""Shows what it looks like: a service under load in which everything goes wrong, and the report on it.

Sets up an environment of its own outside the checkout (`OTEL_ASYNCIO_CACHE`, or the user's cache folder), runs
`otel-asyncio demo` in it, and ends. `python3 scripts/demo.py [--uvloop] [--otlp]`, with Python 3.11 or newer.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def cache() -> Path:
    """Where environments are kept between runs."""
    chosen = os.environ.get("OTEL_ASYNCIO_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen) if chosen else Path(base) / "otel-asyncio"


def environment() -> Path:
    """The interpreter of an environment with the project and, where it can be had, uvloop."""
    folder = cache() / f"demo-cli-{sys.version_info[0]}.{sys.version_info[1]}"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    ready = folder / "ready"
    if not ready.exists():
        print(f"setting up {folder} …", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        if os.name != "nt":
            subprocess.run([python, "-m", "pip", "install", "-q", "uvloop"], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", "-e", f"{ROOT}[cli]"], check=True)
    ready.touch()
    return python


def main() -> int:
    """Run the demonstration; its exit status is ours."""
    if sys.version_info < (3, 11):
        sys.exit("otel-asyncio needs Python 3.11 or newer")
    return subprocess.run([environment(), "-m", "otel_asyncio", "demo", *sys.argv[1:]], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
