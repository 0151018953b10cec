"""Shows what it looks like: an aiohttp service under load, traced, and the trace of one request as a tree.

Sets up an environment of its own outside the checkout (`OTEL_ASYNCIO_CACHE`, or the user's cache folder), runs
`examples/checkout.py` in it, and ends. `python3 scripts/demo.py`, with Python 3.11 or newer.
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
    """The interpreter of an environment with the project, aiohttp and, where it can be had, uvloop."""
    folder = cache() / f"demo-{sys.version_info[0]}.{sys.version_info[1]}"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    ready = folder / "ready"
    if not ready.exists():
        print(f"setting up {folder} …", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        packages = ["aiohttp", *(["uvloop"] if os.name != "nt" else [])]
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", "-e", ROOT], check=True)
    ready.touch()
    return python


def main() -> int:
    """Run the example; its exit status is ours."""
    if sys.version_info < (3, 11):
        sys.exit("otel-asyncio needs Python 3.11 or newer")
    return subprocess.run([environment(), ROOT / "examples" / "checkout.py", *sys.argv[1:]], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
