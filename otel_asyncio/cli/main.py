"""The command's words and what they do."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from otel_asyncio.cli import demo, run, view
from otel_asyncio.cli.output import UsageError
from otel_asyncio.observe.flavour import FLAVOUR, reason

_EPILOG = """\
otel-asyncio run service.py                what happened, when the program has ended
otel-asyncio run -m uvicorn app:app        the same for a module
otel-asyncio view spans.jsonl --problem any
otel-asyncio demo                          a service in which everything goes wrong
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say; the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    program: list[str] = []
    if words[:1] == ["run"]:
        own, program = run.split(words[1:])
        words = ["run", *own]
    options = _parser().parse_args(words)
    try:
        if options.command == "run":
            run.run(options, program)
        elif options.command == "demo":
            demo.demo(options)
        else:
            return view.view(options)
    except UsageError as error:
        print(f"otel-asyncio: {error}", file=sys.stderr)  # noqa: T201 - it is a command
        return 2
    except BrokenPipeError:  # `otel-asyncio view … | head`
        if options.command != "view":
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="otel-asyncio",
        description="Trace an asyncio program and read the answer.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shown = f"otel-asyncio {version('otel-asyncio')} ({FLAVOUR} step hook{reason and f': {reason}'})"
    parser.add_argument("--version", action="version", version=shown)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run.add_arguments(commands.add_parser("run", help="run a program, traced", description=run.__doc__))
    view.add_arguments(commands.add_parser("view", help="show saved spans", description=view.__doc__))
    demo.add_arguments(commands.add_parser("demo", help="see it work, in three seconds", description=demo.__doc__))
    return parser
