"""`otel-asyncio run` beside the bare interpreter: the same output, the same end, and the spans in a file."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from otel_asyncio.report.otlp import Span, read_spans

from . import started
from .started import COMMAND, REPORT, Ended

PYTHON = (sys.executable,)
RUN = (*COMMAND, "run")

HEAD = """
import asyncio, os, signal, sys
async def fetch(n):
    await asyncio.sleep(0.01)
    return n
async def work():
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(fetch(n)) for n in range(3)]
    return sum(task.result() for task in tasks)
"""

# Each ends in its own way. What they print shows their arguments, their streams, and where they think they are.
PROGRAMS = {
    "normal": "print(asyncio.run(work()), sys.argv, __name__, __file__, sys.path[0], __spec__, __package__)",
    "globals": "print(sorted(set(globals()) - {'__cached__', '__builtins__'}), type(__loader__).__name__, __doc__)",
    "main module": "import __main__; print(__main__.work is work, sys.modules['__main__'].__dict__ is globals())",
    "stdin": "print(sys.stdin.read().upper(), asyncio.run(work()))",
    "exit 3": "asyncio.run(work()); sys.exit(3)",
    "exit in loop": "async def main(): await work(); sys.exit(4)\nasyncio.run(main())",
    "exit none": "sys.exit()",
    "exit text": "asyncio.run(work()); sys.exit('no more')",
    "exit true": "sys.exit(True)",
    "raise": "async def main():\n    await work()\n    raise ValueError('all wrong')\nasyncio.run(main())",
    "raise group": "async def bad(): raise KeyError('k')\nasync def main():\n    async with asyncio.TaskGroup() as g: g.create_task(bad())\nasyncio.run(main())",
    "raise chained": "try:\n    1/0\nexcept ZeroDivisionError as e:\n    raise RuntimeError('x') from e",
    "own hook": "sys.excepthook = lambda k, v, t: print('hook', k.__name__, t.tb_frame.f_code.co_name, t.tb_lineno)\n1/0",
    "syntax": "x = (",
    "unicode": "print('žluťoučký'); sys.stderr.write('kůň\\n')",
    "atexit": "import atexit; atexit.register(print, 'the end', flush=True); asyncio.run(work())",
    "thread": "import threading\nthreading.Thread(target=lambda: print(asyncio.run(work()))).start()",
    "many loops": "for _ in range(3): print(asyncio.run(work()))",
    "closed streams": "asyncio.run(work()); sys.stdout.flush(); sys.stdout.close()",
    "os exit": "asyncio.run(work()); sys.stdout.write('left'); sys.stdout.flush(); os._exit(5)",
    "kill": "print('x', flush=True); os.kill(os.getpid(), signal.SIGKILL)",
    "abort": "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.abort()",
    "signal ignored": "signal.signal(signal.SIGTERM, signal.SIG_IGN); os.kill(os.getpid(), signal.SIGTERM); print('alive')",
    "signal handled": "signal.signal(signal.SIGTERM, lambda *_: sys.exit(9)); os.kill(os.getpid(), signal.SIGTERM)",
    "subprocess": "import subprocess; print(subprocess.run([sys.executable, '-c', 'import sys; print(len(sys.argv)); sys.exit(7)'], capture_output=True))",
    "async subprocess": "async def main():\n    p = await asyncio.create_subprocess_exec(sys.executable, '-c', 'print(1)', stdout=-1)\n    print(await p.communicate(), p.returncode)\nasyncio.run(main())",
    "fork": "pid = os.fork()\nif pid == 0:\n    asyncio.run(work()); sys.exit(6)\nprint(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), asyncio.run(work()))",
    "spawn": "import multiprocessing as m\ndef child(n): return asyncio.run(fetch(n))\nif __name__ == '__main__':\n    with m.get_context('spawn').Pool(1) as pool: print(pool.map(child, [1, 2]))",
    "forkserver": "import multiprocessing as m\ndef child(n): return asyncio.run(fetch(n))\nif __name__ == '__main__':\n    with m.get_context('forkserver').Pool(1) as pool: print(pool.map(child, [1, 2]))",
    "spawn of a spawn": "import multiprocessing as m\ndef child(n): return asyncio.run(fetch(n))\ndef between():\n    p = m.get_context('spawn').Process(target=child, args=(1,)); p.start(); p.join(); sys.exit(p.exitcode)\nif __name__ == '__main__':\n    p = m.get_context('spawn').Process(target=between); p.start(); p.join(); print(p.exitcode)",
    "spawn sees itself": "import multiprocessing as m\ndef child(): print(sys.argv, sorted(n for n in os.environ if 'OTEL' in n), sys.path[0] == os.getcwd(), __name__, flush=True); sys.exit(3)\nif __name__ == '__main__':\n    p = m.get_context('spawn').Process(target=child); p.start(); p.join(); print(p.exitcode)",
    "forked pool": "import multiprocessing as m\ndef child(n): return asyncio.run(fetch(n))\nif __name__ == '__main__':\n    with m.get_context('fork').Pool(2) as pool: print(pool.map(child, [1, 2]))",
    "pickle": "import pickle\nclass C: pass\nprint(pickle.dumps(C()) is not None, C.__module__)",
    "annotations": "x: int = 1\nprint(work.__module__, x)",
    "inspect": "import inspect; print(inspect.getsource(work))",
    "flush fails": "print('x' * 10)",
}  # fmt: skip

# Deprecated from 3.12 on, and rightly; the warning stands in a line of its own.
NEEDS_WARNINGS_OFF = {"fork", "forked pool"}


def write(folder: Path, body: str, name: str = "program.py") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEAD + body + "\n", encoding="utf-8")
    return path


def without_report(ended: Ended) -> Ended:
    """What the program itself said: the report comes last, and begins with an empty line."""
    own = [line for line in ended.err.splitlines(keepends=True) if not line.startswith(REPORT)]
    return Ended(ended.status, ended.out, "".join(own))


def both(words: tuple[str | Path, ...], folder: Path, given: str = "", **environment: str) -> tuple[Ended, Ended]:
    bare = started.run(*PYTHON, *words, folder=folder, given=given, **environment)
    traced = started.run(*RUN, "--no-report", *words, folder=folder, given=given, **environment)
    return bare, without_report(traced)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_ends_as_the_bare_one(tmp_path: Path, name: str) -> None:
    write(tmp_path, PROGRAMS[name])
    environment = {"PYTHONWARNINGS": "ignore"} if name in NEEDS_WARNINGS_OFF else {}
    bare, traced = both(("program.py", "-m", "--force", "--", "ž", "-h"), tmp_path, "some words", **environment)
    assert traced == bare


@pytest.mark.parametrize(
    "how", ("absolute", "./", "link", "folder", "zipapp", "-m package", "-m module", "-m dotted", "bytecode")
)
def test_a_program_is_found_as_by_the_bare_interpreter(tmp_path: Path, how: str) -> None:
    body = "print(asyncio.run(work()), sys.argv, __name__, __file__, sys.path[0], __package__, getattr(__spec__, 'name', None))"
    relative = "from .other import value\nfrom pack import other\nprint(value)\n" + body
    write(tmp_path, body)
    write(tmp_path, relative, "pack/__main__.py")
    write(tmp_path, relative, "pack/inner.py")
    write(tmp_path, "value = 42", "pack/other.py")
    write(tmp_path, "", "pack/__init__.py")
    write(tmp_path, "import neighbour\n" + body, "folder/__main__.py")
    write(tmp_path, "", "folder/neighbour.py")
    words: tuple[str | Path, ...] = {
        "absolute": (tmp_path / "program.py",), "./": ("./program.py",), "link": ("link/linked.py",), "folder": ("folder",),
        "zipapp": ("app.pyz",), "-m package": ("-m", "pack"), "-m module": ("-m", "program"), "-m dotted": ("-m", "pack.inner"),
        "bytecode": ("program.pyc",),
    }[how]  # fmt: skip
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "linked.py").symlink_to(tmp_path / "program.py")
    with zipfile.ZipFile(tmp_path / "app.pyz", "w") as archive:
        archive.write(tmp_path / "folder" / "__main__.py", "__main__.py")
        archive.write(tmp_path / "folder" / "neighbour.py", "neighbour.py")
    subprocess.run(
        [sys.executable, "-c", "import py_compile; py_compile.compile('program.py', 'program.pyc')"],
        cwd=tmp_path,
        check=True,
    )
    bare, traced = both((*words, "an", "argument"), tmp_path)
    assert traced == bare
    assert bare.status == 0, bare


@pytest.mark.parametrize(
    "words", (("missing.py",), ("-m", "missing"), ("-m", "pack.missing"), ("empty",), ("-m", "empty"))
)
def test_a_program_that_is_not_there_is_told_as_by_the_bare_interpreter(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "x").touch()
    bare, traced = both(words, tmp_path)
    assert traced == bare


def test_a_traceback_of_a_module_is_that_of_the_bare_interpreter(tmp_path: Path) -> None:
    write(tmp_path, "asyncio.run(work())\n1/0", "pack/__main__.py")
    bare, traced = both(("-m", "pack"), tmp_path)
    assert traced == bare


@pytest.mark.parametrize("variable", ("PYTHONSAFEPATH", "PYTHONDEVMODE", "PYTHONNOUSERSITE"))
def test_the_interpreter_s_own_variables_are_heeded(tmp_path: Path, variable: str) -> None:
    write(tmp_path, "print(sys.flags.safe_path, [p for p in sys.path if p.startswith(os.getcwd())])")
    bare, traced = both(("program.py",), tmp_path, **{variable: "1"})
    assert traced == bare


WAITING = {
    "asyncio": "async def main():\n    print('ready', flush=True)\n    await asyncio.sleep(60)\nasyncio.run(main())",
    "uvloop": "import uvloop\nasync def main():\n    print('ready', flush=True)\n    await asyncio.sleep(60)\nuvloop.run(main())",
    "no loop": "import time\nprint('ready', flush=True)\ntime.sleep(60)",
    "in a thread": "import threading\ndone = threading.Event()\nasync def main():\n    print('ready', flush=True)\n    await asyncio.sleep(60)\nthreading.Thread(target=asyncio.run, args=(main(),), daemon=True).start()\ndone.wait(60)",
    "clean stop": "async def main():\n    stop = asyncio.Event()\n    for s in (2, 15): asyncio.get_running_loop().add_signal_handler(s, stop.set)\n    print('ready', flush=True)\n    await stop.wait()\n    print('stopped')\nasyncio.run(main())",
}  # fmt: skip


@pytest.mark.parametrize("number", (signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP, signal.SIGUSR1))
@pytest.mark.parametrize("name", WAITING)
def test_a_signal_ends_a_program_as_the_bare_one(tmp_path: Path, name: str, number: signal.Signals) -> None:
    write(tmp_path, WAITING[name])
    bare = started.interrupted(*PYTHON, "program.py", folder=tmp_path, number=number)
    traced = without_report(started.interrupted(*RUN, "--no-report", "program.py", folder=tmp_path, number=number))
    if number is signal.SIGINT:  # how far asyncio had come when the signal struck is not ours to decide
        bare, traced = (
            Ended(each.status, each.out, each.err.strip().splitlines()[-1:].__str__()) for each in (bare, traced)
        )
    assert traced == bare


def test_a_reader_that_goes_away_is_met_as_by_the_bare_one(tmp_path: Path) -> None:
    write(tmp_path, "asyncio.run(work())\nfor _ in range(100_000): print('line')")

    def ended(*command: str) -> tuple[int, str]:
        process = started.start(command, tmp_path)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
        process.stderr.close()
        process.stdin.close()  # type: ignore[union-attr]
        return process.wait(started.TIMEOUT), "".join(
            line for line in said.splitlines(keepends=True) if not line.startswith(REPORT)
        )

    assert ended(*RUN, "--no-report", "program.py") == ended(*PYTHON, "program.py")


def test_a_closed_standard_error_does_no_harm(tmp_path: Path) -> None:
    write(tmp_path, "print(asyncio.run(work()))")
    shell = f'exec "{sys.executable}" -m otel_asyncio run program.py 2>&-'
    ended = started.run("/bin/sh", "-c", shell, folder=tmp_path)
    assert (ended.status, ended.out) == (0, "3\n")


# --- the file


def spans_of(path: Path) -> list[Span]:
    broken: list = []
    with path.open("rb") as file:
        spans = list(read_spans(file, broken))
    assert broken == []
    return spans


@pytest.fixture
def traced(tmp_path: Path) -> Callable[..., Ended]:
    def run_traced(body: str, *options: str, **environment: str) -> Ended:
        write(tmp_path, body)
        return started.run(*RUN, *options, "program.py", folder=tmp_path, **environment)

    return run_traced


def names(spans: list[Span]) -> list[str]:
    return sorted(span.name for span in spans)


TASKS = ["task fetch"] * 3 + ["task work"]


@pytest.mark.parametrize("runner", ("asyncio.run", "uvloop.run"))
def test_every_span_is_in_the_file(traced: Callable[..., Ended], runner: str) -> None:
    ended = traced(f"import uvloop\n{runner}(work())")
    assert names(spans_of(ended.file)) == TASKS


def test_the_service_is_called_after_the_program(traced: Callable[..., Ended]) -> None:
    assert {span.service for span in spans_of(traced("asyncio.run(work())").file)} == {"program"}


def test_the_environment_may_name_the_service(traced: Callable[..., Ended]) -> None:
    ended = traced("asyncio.run(work())", OTEL_SERVICE_NAME="till")
    assert {span.service for span in spans_of(ended.file)} == {"till"}


def test_an_option_may_name_the_service(traced: Callable[..., Ended]) -> None:
    ended = traced("asyncio.run(work())", "--service-name", "till")
    assert {span.service for span in spans_of(ended.file)} == {"till"}


def test_only_the_owner_may_read_the_file(traced: Callable[..., Ended]) -> None:
    assert stat.S_IMODE(traced("asyncio.run(work())").file.stat().st_mode) == 0o600


def test_a_file_that_exists_is_not_overwritten(traced: Callable[..., Ended], tmp_path: Path) -> None:
    (tmp_path / "spans.jsonl").write_text("precious")
    ended = traced("print('ran')", "-o", "spans.jsonl")
    assert (ended.status, ended.out) == (2, "")
    assert "--force" in ended.err
    assert (tmp_path / "spans.jsonl").read_text() == "precious"


def test_a_file_that_exists_is_overwritten_on_demand(traced: Callable[..., Ended], tmp_path: Path) -> None:
    (tmp_path / "spans.jsonl").write_text("precious")
    (tmp_path / "spans.jsonl").chmod(0o666)
    traced("asyncio.run(work())", "-o", "spans.jsonl", "--force")
    assert names(spans_of(tmp_path / "spans.jsonl")) == TASKS
    assert stat.S_IMODE((tmp_path / "spans.jsonl").stat().st_mode) == 0o600


def test_a_file_that_cannot_be_written_is_told_before_the_program_starts(traced: Callable[..., Ended]) -> None:
    ended = traced("print('ran')", "-o", "missing/spans.jsonl")
    assert (ended.status, ended.out) == (2, "")
    assert "cannot write missing/spans.jsonl" in ended.err


def test_nothing_but_the_file_is_left(tmp_path: Path) -> None:
    write(tmp_path, "asyncio.run(work())")
    ended = started.run(*RUN, "program.py", folder=tmp_path, PYTHONDONTWRITEBYTECODE="1")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["program.py", ended.file.name])


def test_a_killed_program_leaves_a_file_that_can_be_read(tmp_path: Path) -> None:
    body = "import time\nasyncio.run(work())\ntime.sleep(1)\nprint('ready', flush=True)\ntime.sleep(60)"
    write(tmp_path, body)
    started.interrupted(*RUN, "-o", "spans.jsonl", "program.py", folder=tmp_path, number=signal.SIGKILL)
    assert names(spans_of(tmp_path / "spans.jsonl")) == TASKS


def test_a_terminated_program_loses_nothing_and_reports(tmp_path: Path) -> None:
    write(tmp_path, "import time\nasyncio.run(work())\nprint('ready', flush=True)\ntime.sleep(60)")
    ended = started.interrupted(*RUN, "program.py", folder=tmp_path, number=signal.SIGTERM)
    assert ended.status == -signal.SIGTERM
    assert "no problems" in ended.err
    assert names(spans_of(ended.file)) == TASKS


def test_os_exit_loses_nothing_that_ended_and_says_what_is_missing(traced: Callable[..., Ended]) -> None:
    ended = traced(PROGRAMS["os exit"])
    assert ended.status == 5
    assert "tasks that still ran have no span" in ended.err
    assert names(spans_of(ended.file)) == TASKS


@pytest.mark.parametrize("name", ("fork", "forked pool"))
def test_the_spans_of_forked_children_are_in_the_file(traced: Callable[..., Ended], name: str) -> None:
    ended = traced(PROGRAMS[name], PYTHONWARNINGS="ignore")
    expected = TASKS * 2 if name == "fork" else ["task fetch"] * 2
    assert names(spans_of(ended.file)) == sorted(expected)
    assert ended.err.count("otel-asyncio: spans:") == 1


@pytest.mark.parametrize(("name", "count"), (("spawn", 2), ("forkserver", 2), ("spawn of a spawn", 1)))
def test_the_spans_of_new_interpreters_of_multiprocessing_are_in_the_file(
    traced: Callable[..., Ended], name: str, count: int
) -> None:
    ended = traced(PROGRAMS[name])
    assert names(spans_of(ended.file)) == ["task fetch"] * count
    assert ended.err.count("otel-asyncio: spans:") == 1


def test_several_loops_in_several_threads_are_seen(traced: Callable[..., Ended]) -> None:
    body = "import threading\nts = [threading.Thread(target=asyncio.run, args=(work(),)) for _ in range(4)]\n"
    ended = traced(body + "for t in ts: t.start()\nfor t in ts: t.join()\nasyncio.run(work())")
    assert names(spans_of(ended.file)) == sorted(TASKS * 5)


def test_the_file_is_one_json_value_a_line(traced: Callable[..., Ended]) -> None:
    lines = traced("asyncio.run(work())").file.read_text().splitlines()
    assert all("resourceSpans" in json.loads(line) for line in lines)


# --- what is told at the end


def test_the_report_shows_the_program_s_lines(traced: Callable[..., Ended]) -> None:
    ended = traced("asyncio.run(work())")
    assert "task fetch" in ended.err
    assert "program.py:8" in ended.err
    assert ended.out == ""


def test_the_report_can_be_left_out(traced: Callable[..., Ended]) -> None:
    ended = traced("asyncio.run(work())", "--no-report")
    assert [line.partition(" /")[0] for line in ended.err.splitlines()] == [
        "otel-asyncio: spans:",
        "otel-asyncio: again: otel-asyncio view",
    ]


def test_a_failing_program_is_reported_after_its_traceback(traced: Callable[..., Ended]) -> None:
    ended = traced(PROGRAMS["raise"])
    assert ended.err.index("ValueError: all wrong") < ended.err.index("! error  main")
    assert ended.status == 1


def test_a_program_without_a_loop_has_no_spans(traced: Callable[..., Ended]) -> None:
    assert "no spans" in traced("pass").err


@pytest.mark.parametrize("loop", ("asyncio", "uvloop"))
def test_on_a_terminal_the_report_is_coloured(tmp_path: Path, loop: str) -> None:
    write(tmp_path, f"import uvloop\n{loop}.run(work())\nprint(sys.stdout.isatty(), sys.stdin.isatty())")
    status, seen = started.in_terminal(*RUN, "program.py", folder=tmp_path)
    assert status == 0
    assert "True True" in seen
    assert "\x1b[" in seen.partition("True True")[2]


def test_in_a_pipe_the_report_is_plain(traced: Callable[..., Ended]) -> None:
    assert "\x1b" not in traced("asyncio.run(work())").err


# --- the environment


@pytest.mark.parametrize(
    ("name", "value", "says"),
    (
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost", "http://"),
        ("OTEL_TRACES_EXPORTER", "otpl", "otlp"),
        ("OTEL_BSP_SCHEDULE_DELAY", "soon", "whole number"),
    ),
)
def test_a_wrong_variable_is_told_before_the_program_starts(
    traced: Callable[..., Ended], name: str, value: str, says: str
) -> None:
    ended = traced("print('ran')", **{name: value})
    assert (ended.status, ended.out) == (2, "")
    assert f"{name}={value!r}" in ended.err
    assert says in ended.err


def test_a_disabled_sdk_is_heeded(traced: Callable[..., Ended]) -> None:
    assert traced("print(asyncio.run(work()))", OTEL_SDK_DISABLED="true") == Ended(0, "3\n", "")


def test_with_an_exporter_named_there_is_no_file(traced: Callable[..., Ended], tmp_path: Path) -> None:
    ended = traced("asyncio.run(work())", OTEL_TRACES_EXPORTER="console")
    assert ended.err == ""
    assert '"task fetch"' in ended.out
    assert list(tmp_path.glob("*.jsonl")) == []


def test_grpc_is_not_imported_where_it_is_not_used(traced: Callable[..., Ended]) -> None:
    ended = traced("print(sorted(name for name in sys.modules if name.startswith(('grpc', 'google.rpc'))))")
    assert ended.out == "[]\n"


def test_version() -> None:
    ended = started.run(*COMMAND, "--version", folder=Path("/tmp"))
    assert (ended.status, ended.out.split()[0]) == (0, "otel-asyncio")


def test_run_without_a_program_says_how(tmp_path: Path) -> None:
    ended = started.run(*RUN, folder=tmp_path)
    assert (ended.status, "PROGRAM" in ended.err) == (2, True)


def test_the_script_is_the_command() -> None:
    script = Path(sys.executable).with_name("otel-asyncio")
    ended = started.run(script, "--version", folder=Path("/tmp"))
    assert ended.status == 0


def test_programs_are_written_to_be_different() -> None:
    assert len(set(map(textwrap.dedent, PROGRAMS.values()))) == len(PROGRAMS)
    assert os.sep == "/"
