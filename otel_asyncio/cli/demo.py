"""`otel-asyncio demo`: a small service under load in which everything goes wrong that a trace can show."""

from __future__ import annotations

import argparse
import os
from importlib.util import find_spec
from pathlib import Path

import otel_asyncio_demo
from otel_asyncio.cli import run
from otel_asyncio.cli.output import UsageError
from otel_asyncio.cli.program import run_program


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where its spans go and what it runs on; the rest is as for `run`."""
    parser.add_argument("--otlp", nargs="?", const="http://localhost:4318", metavar="ENDPOINT",
                        help="send the spans to a backend (default: http://localhost:4318)")  # fmt: skip
    parser.add_argument("--uvloop", action="store_true", help="on uvloop")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the spans here (default: a new file)")
    parser.add_argument("--force", action="store_true", help="overwrite FILE")
    parser.set_defaults(no_report=False, slowest=2, service_name="shop")


def demo(options: argparse.Namespace) -> None:
    """Run the shop as `otel-asyncio run` runs any program."""
    if options.uvloop and find_spec("uvloop") is None:
        raise UsageError("--uvloop needs uvloop: pip install uvloop")
    if options.otlp:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = options.otlp
    shop = Path(otel_asyncio_demo.__file__).with_name("shop.py")
    run.start(options, "shop")
    run_program(str(shop), ["--uvloop"] if options.uvloop else [], as_module=False)
