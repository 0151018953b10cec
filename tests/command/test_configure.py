"""`configure()` and `render()`: each test in a process of its own, because a provider is set once."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from . import started
from .started import Ended

HEAD = """
import asyncio, os, signal, sys, threading, time
import otel_asyncio
from opentelemetry import trace
async def fetch(): await asyncio.sleep(0.01)
async def main(): await asyncio.create_task(fetch())
"""
CONSOLE = {"OTEL_TRACES_EXPORTER": "console"}


def run(folder: Path, body: str, **environment: str) -> Ended:
    (folder / "service.py").write_text(HEAD + body)
    return started.run(sys.executable, "service.py", folder=folder, **environment)


def test_spans_are_exported_when_the_program_ends(tmp_path: Path) -> None:
    ended = run(tmp_path, "otel_asyncio.configure(); asyncio.run(main())", **CONSOLE)
    assert ended.status == 0
    assert ended.out.count('"name": "task') == 2


@pytest.mark.parametrize(
    ("call", "environment", "name"),
    (
        ("configure()", {}, "service"),
        ("configure(service_name='till')", {}, "till"),
        ("configure(service_name='till')", {"OTEL_SERVICE_NAME": "bank"}, "bank"),
        ("configure()", {"OTEL_RESOURCE_ATTRIBUTES": "service.name=bank"}, "bank"),
    ),
)
def test_the_service_has_a_name(tmp_path: Path, call: str, environment: dict[str, str], name: str) -> None:
    ended = run(tmp_path, f"otel_asyncio.{call}; asyncio.run(main())", **CONSOLE, **environment)
    assert f'"service.name": "{name}"' in ended.out


def test_a_module_gives_its_name(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__main__.py").write_text(HEAD + "otel_asyncio.configure(); asyncio.run(main())")
    ended = started.run(sys.executable, "-m", "shop", folder=tmp_path, **CONSOLE)
    assert '"service.name": "shop"' in ended.out


def test_a_wrong_variable_is_an_error(tmp_path: Path) -> None:
    ended = run(tmp_path, "otel_asyncio.configure()", OTEL_EXPORTER_OTLP_PROTOCOL="carrier pigeon")
    assert ended.status == 1
    assert "ValueError: OTEL_EXPORTER_OTLP_PROTOCOL='carrier pigeon'" in ended.err


def test_a_provider_that_is_there_is_an_error(tmp_path: Path) -> None:
    body = "from opentelemetry.sdk.trace import TracerProvider\ntrace.set_tracer_provider(TracerProvider())\n"
    ended = run(tmp_path, body + "otel_asyncio.configure()")
    assert "RuntimeError: the program has a tracer provider already" in ended.err
    assert "AsyncioInstrumentor().instrument()" in ended.err


def test_a_second_call_changes_nothing(tmp_path: Path) -> None:
    ended = run(tmp_path, "print(otel_asyncio.configure() is otel_asyncio.configure())", **CONSOLE)
    assert (ended.out, ended.err) == ("True\n", "")


def test_a_disabled_sdk_is_heeded(tmp_path: Path) -> None:
    body = "print(otel_asyncio.configure().tracer_provider); asyncio.run(main())"
    assert run(tmp_path, body, OTEL_SDK_DISABLED="true", **CONSOLE) == Ended(0, "None\n", "")


def test_grpc_is_not_imported_where_it_is_not_used(tmp_path: Path) -> None:
    body = "otel_asyncio.configure(); print([name for name in sys.modules if name.startswith('grpc')])"
    assert run(tmp_path, body, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9").out == "[]\n"


def test_importing_the_package_imports_no_exporter(tmp_path: Path) -> None:
    heavy = ("opentelemetry.exporter", "opentelemetry.sdk", "rich", "grpc", "requests", "google")
    body = f"print([name for name in sys.modules if name.startswith({heavy!r})])"
    assert run(tmp_path, body).out == "[]\n"


def test_grpc_is_used_where_it_is_asked_for(tmp_path: Path) -> None:
    body = "otel_asyncio.configure(); print('grpc' in sys.modules)"
    assert run(tmp_path, body, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4317").out == "True\n"


# Not by `print`: a signal that strikes while it holds the stream's lock makes the console exporter wait for ever.
TERMINATED = """
otel_asyncio.configure(); asyncio.run(main())
os.write(1, b'ready\\n')
threading.Event().wait(60)
"""


def test_sigterm_flushes_and_still_ends_the_process_by_the_signal(tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(HEAD + TERMINATED)
    slow = {"OTEL_BSP_SCHEDULE_DELAY": "60000", **CONSOLE}
    ended = started.interrupted(sys.executable, "service.py", folder=tmp_path, number=signal.SIGTERM, **slow)
    assert ended.status == -signal.SIGTERM
    assert ended.out.count('"name": "task') == 2


def test_sigterm_waits_for_two_seconds_at_most(tmp_path: Path) -> None:
    """The exporter never answers; the lock that the flush wants is taken."""
    stuck = """
from opentelemetry.sdk.trace.export import SpanExporter
class Stuck(SpanExporter):
    def export(self, spans): threading.Event().wait()
otel_asyncio.configure(exporters=[(Stuck(), {})]); asyncio.run(main())
print('ready', flush=True)
threading.Event().wait(60)
"""
    (tmp_path / "service.py").write_text(HEAD + stuck)
    ended = started.interrupted(sys.executable, "service.py", folder=tmp_path, number=signal.SIGTERM)
    assert ended.status == -signal.SIGTERM


def test_sigterm_ends_a_program_that_can_start_no_thread_any_more(tmp_path: Path) -> None:
    """Its cgroup or its user has as many as it may have."""
    crowded = """
import _thread
def refuse(*_): raise RuntimeError("can't start new thread")
otel_asyncio.configure(); asyncio.run(main())
_thread.start_new_thread = refuse
os.kill(os.getpid(), signal.SIGTERM)
threading.Event().wait(60)
"""
    assert run(tmp_path, crowded).status == -signal.SIGTERM


STRUCK = """
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
class Struck(SpanExporter):
    strikes = {strikes}
    def export(self, spans):
        for _ in range(self.strikes):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
        self.strikes = 0
        print('exported', len(spans), flush=True)
        return SpanExportResult.SUCCESS
otel_asyncio.configure(exporters=[(Struck(), {{}})]); asyncio.run(main())
"""


def test_sigterm_while_the_exit_sends_the_last_spans_loses_none(tmp_path: Path) -> None:
    ended = run(tmp_path, STRUCK.format(strikes=1))
    assert ended == started.Ended(-signal.SIGTERM, "exported 2\n", "")


def test_a_second_sigterm_cuts_the_exit_short(tmp_path: Path) -> None:
    ended = run(tmp_path, STRUCK.format(strikes=300))  # two in a row may arrive as one
    assert ended == started.Ended(-signal.SIGTERM, "", "")


IMPATIENT = "sys.modules['otel_asyncio.configure'].EXIT_SECONDS = 0.2\notel_asyncio.configure(); asyncio.run(main())"
DEAD = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_METRICS_EXPORTER": "otlp"}


@pytest.mark.skipif(
    (3, 12) <= sys.version_info < (3, 12, 2),
    reason="needs Python 3.12.2, or 3.11: a thread that is started at the exit",
)
@pytest.mark.parametrize("protocol", ("grpc", "http/protobuf"))
def test_the_exit_does_not_wait_long_for_a_collector_that_is_not_there(tmp_path: Path, protocol: str) -> None:
    ended = run(tmp_path, IMPATIENT, OTEL_EXPORTER_OTLP_PROTOCOL=protocol, **DEAD)
    assert ended.status == 0
    assert "given up" in ended.err


def test_the_exit_waits_as_the_sdk_does_where_a_time_out_is_set(tmp_path: Path) -> None:
    ended = run(tmp_path, IMPATIENT, OTEL_EXPORTER_OTLP_TIMEOUT="1", **DEAD)
    assert ended.status == 0
    assert "given up" not in ended.err


@pytest.mark.parametrize(
    "body",
    (
        "mine = lambda *_: None\nsignal.signal(15, mine); otel_asyncio.configure(); print(signal.getsignal(15) is mine)",
        "signal.signal(15, signal.SIG_IGN); otel_asyncio.configure(); print(signal.getsignal(15) is signal.SIG_IGN)",
        "t = threading.Thread(target=otel_asyncio.configure); t.start(); t.join(); print(signal.getsignal(15) is signal.SIG_DFL)",
        "otel_asyncio.AsyncioInstrumentor().instrument(); print(signal.getsignal(15) is signal.SIG_DFL)",
    ),
)
def test_sigterm_is_left_to_whoever_has_it(tmp_path: Path, body: str) -> None:
    assert run(tmp_path, body, **CONSOLE).out == "True\n"


KEPT = "otel_asyncio.configure(keep_spans=2); [asyncio.run(main()) for _ in range(3)]\n"


def test_render_shows_what_was_kept(tmp_path: Path) -> None:
    ended = run(tmp_path, KEPT + "print(otel_asyncio.render())", OTEL_TRACES_EXPORTER="none")
    assert (ended.status, ended.err) == (0, "")
    assert "─ task fetch" in ended.out
    assert "2 spans in 1 trace" in ended.out


def test_render_is_html_in_a_notebook(tmp_path: Path) -> None:
    ended = run(tmp_path, KEPT + "print(otel_asyncio.render()._repr_html_())", OTEL_TRACES_EXPORTER="none")
    assert ended.out.startswith("<pre")


def test_render_without_kept_spans_says_what_to_do(tmp_path: Path) -> None:
    ended = run(tmp_path, "otel_asyncio.configure(); otel_asyncio.render()", **CONSOLE)
    assert "RuntimeError: no spans are kept: call otel_asyncio.configure(keep_spans=" in ended.err


def test_an_interactive_session_keeps_its_spans_and_sends_none(tmp_path: Path) -> None:
    session = "import asyncio, otel_asyncio\notel_asyncio.configure()\n"
    session += "async def fetch(): await asyncio.sleep(0.01)\n\nasyncio.run(fetch())\notel_asyncio.render()\n"
    ended = started.run(sys.executable, "-i", folder=tmp_path, given=session, PYTHON_BASIC_REPL="1")
    assert "task fetch │" in ended.out
    assert "refused" not in ended.err


def test_a_negative_number_of_spans_is_refused(tmp_path: Path) -> None:
    assert "ValueError: keep_spans=-1" in run(tmp_path, "otel_asyncio.configure(keep_spans=-1)", **CONSOLE).err
