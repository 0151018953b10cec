"""`script.py` under zero-code instrumentation started from inside, where logging is set up before it."""

from __future__ import annotations

import logging
import runpy
from pathlib import Path

from opentelemetry.instrumentation import auto_instrumentation

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s:%(name)s:%(message)s")
    auto_instrumentation.initialize()
    runpy.run_path(str(Path(__file__).with_name("script.py")), run_name="__main__")
