"""`otel-asyncio run`: a program, unchanged, and its spans in a file or at the endpoint that the environment names."""

from __future__ import annotations

import argparse
import atexit
import dataclasses
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otel_asyncio.cli.children import follow
from otel_asyncio.cli.output import SpanFile, UsageError, console, default_path, need_extra, say
from otel_asyncio.cli.program import find_fault, run_program
from otel_asyncio.configure import Telemetry, configure
from otel_asyncio.environment import exports
from otel_asyncio.settings import PREFIX, Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

FLUSH_MILLISECONDS = 200
"""What is recorded is in the file so soon, also if the program is killed then."""

_QUEUE = 65_536
_VALUES = ("-o", "--output", "--service-name", "--slowest")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options, all before PROGRAM: what stands behind it is the program's."""
    parser.usage = "otel-asyncio run [options] [-m] PROGRAM [ARGUMENTS…]"
    parser.add_argument("-m", action="store_true", dest="as_module", help="PROGRAM is a module, as for python -m")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the spans here (default: a new file)")
    parser.add_argument("--force", action="store_true", help="overwrite FILE")
    parser.add_argument("--no-report", action="store_true", help="only say where the spans are")
    parser.add_argument("--slowest", type=int, default=3, metavar="N", help="show the N slowest traces (default: 3)")
    parser.add_argument("--service-name", metavar="NAME", help="service.name, where the environment has none")


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Our own options, and the program with its arguments, which may look like ours."""
    at = 0
    while at < len(arguments) and arguments[at].startswith("-") and arguments[at] != "-":
        if arguments[at] == "--":
            return list(arguments[:at]), list(arguments[at + 1 :])
        at += 2 if arguments[at] in _VALUES else 1
    return list(arguments[:at]), list(arguments[at:])


def run(options: argparse.Namespace, words: Sequence[str]) -> None:
    """Run the program; whatever it raises, exits included, goes on to the interpreter."""
    if not words:
        raise UsageError("run what? otel-asyncio run [options] [-m] PROGRAM [ARGUMENTS…]")
    program, *arguments = words
    if fault := find_fault(program, as_module=options.as_module):
        print(f"{sys.executable}: {fault}", file=sys.stderr)  # noqa: T201 - the interpreter's own words and status
        raise SystemExit(2)
    start(options, options.service_name or service_name(program, as_module=options.as_module))
    run_program(program, arguments, as_module=options.as_module)


def service_name(program: str, *, as_module: bool) -> str:
    """The program's name: the module's, or that of the file, or of the folder of a `__main__.py`."""
    if as_module:
        return program.removesuffix(".__main__")
    path = Path(program).absolute()
    return path.parent.name if path.name == "__main__.py" else path.stem


def start(options: argparse.Namespace, name: str) -> None:
    """Set everything up; what is said at the end is registered first, so that it comes last."""
    try:
        wanted = exports(os.environ)
        if wanted.disabled or wanted.named:
            _into_backend(name)
            return
        need_extra("run without an OTLP endpoint", "rich", "opentelemetry.exporter.otlp.json.file")
        file = SpanFile(options.output or default_path(name), force=options.force)
        report = _Report(file, slowest=0 if options.no_report else options.slowest)
        atexit.register(report.at_exit)
        telemetry = _into_file(file, name)
        telemetry.last_words = report
        _keep_until_exit(telemetry, report.cut_short)
    except ValueError as error:
        raise UsageError(str(error)) from None


def begin_child(path: str | None, name: str) -> None:
    """The same in an interpreter that the program has started, without a report: whoever started it tells."""
    if path is None:
        _into_backend(name)
    else:
        _keep_until_exit(_into_file(SpanFile(Path(path), append=True), name), lambda: None)


def _into_backend(name: str) -> None:
    telemetry = configure(settings=_settings(), service_name=name)
    _keep_until_exit(telemetry, lambda: None)
    follow(None, name)


def _into_file(file: SpanFile, name: str) -> Telemetry:
    telemetry = configure(settings=_settings(), service_name=name, exporters=[_to_file(file)])
    follow(str(file.path.absolute()), name)
    return telemetry


def _settings() -> Settings:
    """The environment's, with what is worth its cost while somebody looks."""
    settings = Settings.from_env()
    if os.environ.get(f"{PREFIX}ORIGIN_TRACKING"):
        return settings
    return dataclasses.replace(settings, origin_tracking=True)


def _to_file(file: SpanFile) -> tuple[SpanExporter, Mapping[str, Any]]:
    """The exporter and its batches: short delays, and room for a burst, unless the environment has its own."""
    from otel_asyncio.cli.exporting import FileExporter  # noqa: PLC0415 - the extra

    options = {"schedule_delay_millis": ("OTEL_BSP_SCHEDULE_DELAY", FLUSH_MILLISECONDS)}
    options["max_queue_size"] = ("OTEL_BSP_MAX_QUEUE_SIZE", _QUEUE)
    own = {key: value for key, (name, value) in options.items() if not os.environ.get(name)}
    return FileExporter(file), own


def _keep_until_exit(telemetry: Telemetry, say_so: Callable[[], None]) -> None:
    """`os._exit` ends the process without the interpreter's own end: what is recorded leaves before."""
    leave, process = os._exit, os.getpid()

    def _exit(status: int) -> None:
        telemetry.flush()
        if os.getpid() == process:
            say_so()
        leave(status)

    os._exit = _exit  # type: ignore[assignment]


class _Report:
    """The end of the program as the user sees it, once, in the process that was started."""

    def __init__(self, file: SpanFile, *, slowest: int) -> None:
        self._file = file
        self._slowest = slowest
        self._process = os.getpid()
        self._said = False

    def at_exit(self) -> None:
        """The interpreter ends: spans have left by now."""
        self()

    def cut_short(self) -> None:
        """The program left by `os._exit`."""
        self._said = True
        say(f"the program left by os._exit: tasks that still ran have no span; the others are in {self._file.path}")
        say(f"to read them: {self._hint()}")

    def __call__(self) -> None:
        """Print the report and where the spans are. Nothing that goes wrong here changes how the program ends."""
        if self._said or os.getpid() != self._process:
            return
        self._said = True
        with suppress(Exception):
            sys.stdout.flush()  # so that the program's own last words come first
        try:
            if self._slowest:
                self._print()
            say(f"spans: {self._file.path}")
            say(f"again: {self._hint()}")
        except (BrokenPipeError, KeyboardInterrupt):
            pass
        except Exception as error:  # noqa: BLE001 - the program's end is not ours to disturb
            say(f"no report, {type(error).__name__}: {error}; the spans are in {self._file.path}")

    def _hint(self) -> str:
        return f"otel-asyncio view {shlex.quote(str(self._file.path))}"

    def _print(self) -> None:
        from otel_asyncio.cli.view import page_of  # noqa: PLC0415 - the extra

        # A stream of our own: the program's may be in the middle of a write, closed, or its own object.
        encoding = getattr(sys.__stderr__, "encoding", None) or "utf-8"
        with open(2, "w", encoding=encoding, errors="backslashreplace", closefd=False) as stream:
            target = console(stream)
            page = page_of([self._file.path], slowest=self._slowest, progress=target)
            target.print()
            target.print(page)
