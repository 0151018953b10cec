"""The compiled step hook and the Python it is the twin of: which one runs, and that it is safe to have."""

from __future__ import annotations

import ast
import asyncio
import gc
import os
import subprocess
import sys
import sysconfig
from typing import Any

import pytest
from harness import LOOP_KINDS, NewLoop, Spans, instrumented, loop_maker, needs_python, run_on

from otel_asyncio.observe import flavour

compiled_only = pytest.mark.skipif(flavour.FLAVOUR != "compiled", reason="needs Python and the compiled step hook")


def run_python(program: str, *arguments: str, **settings: str | None) -> subprocess.CompletedProcess[str]:
    """In the flavour under test, unless told otherwise; a setting that is None is not set."""
    settings = {flavour.COMPILED: str(int(flavour.FLAVOUR == "compiled"))} | settings
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    environment |= {name: value for name, value in settings.items() if value is not None}
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def said(done: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    return done.returncode, done.stdout.strip(), done.stderr


def test_what_was_asked_for_runs() -> None:
    if os.environ.get(flavour.COMPILED) == "0":
        assert (flavour.FLAVOUR, flavour.extension) == ("python", None)
    elif sysconfig.get_config_var("Py_GIL_DISABLED"):
        assert flavour.FLAVOUR == "python"
    elif flavour.FLAVOUR != "compiled":
        pytest.skip(f"the compiled step hook is NOT TESTED: {flavour.reason}")


ASK = "from otel_asyncio.observe import flavour; print(flavour.FLAVOUR, '|', flavour.reason)"


def test_python_runs_where_the_compiled_hook_is_switched_off() -> None:
    done = run_python(ASK, OTEL_ASYNCIO_COMPILED="0")
    assert said(done) == (0, "python | OTEL_ASYNCIO_COMPILED is 0", "")


@compiled_only
@pytest.mark.parametrize("value", (None, "", "1"), ids=repr)
def test_the_compiled_hook_runs_where_nothing_else_is_asked_for(value: str | None) -> None:
    done = run_python(ASK, OTEL_ASYNCIO_COMPILED=value)
    assert said(done) == (0, "compiled |", "")


@pytest.mark.parametrize(
    "broken", ("raise ImportError('not built')", "raise SystemError('not for this Python')"), ids=("missing", "broken")
)
def test_python_runs_where_there_is_no_extension(broken: str) -> None:
    program = (
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name.endswith('._compiled'): {broken}\n"
        "sys.meta_path.insert(0, Finder())\n"
    ) + ASK
    done = run_python(program, OTEL_ASYNCIO_COMPILED="1")
    assert said(done) == (0, f"python | {broken.split(chr(39))[1]}", "")


def test_an_extension_of_another_version_is_left_alone() -> None:
    program = (
        "import sys, types; other = types.ModuleType('other'); other.INTERFACE = 0\n"
        "sys.modules['otel_asyncio.observe._compiled'] = other\n"
    ) + ASK
    done = run_python(program, OTEL_ASYNCIO_COMPILED="1")
    assert said(done) == (0, "python | it was built for another version of this package", "")


def test_the_flavour_is_logged_when_tracing_starts(spans: Spans, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", "otel_asyncio"), instrumented(spans):
        pass
    assert [record.message for record in caplog.records if "step hook" in record.message]


@compiled_only
@pytest.mark.parametrize("arguments", [(), (1, 2), (1, 2, 3)], ids=repr)
def test_a_step_that_no_loop_runs_is_the_one_in_python(arguments: Any) -> None:
    def plain(*seen: Any, **more: Any) -> Any:
        return seen, more

    assert flavour.extension.Step(plain, print)(*arguments, a=1) == (arguments, {"a": 1})


@compiled_only
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"plain": print},
        {"plain": print, "finish": print, "clock": print},
        {"plain": print, "finish": print, "limits": 3},
        {"plain": print, "finish": print, "untold": []},
        {"nothing": 1},
    ],
    ids=repr,
)
def test_a_step_made_in_another_way_says_so(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        flavour.extension.Step(**options)


@compiled_only
def test_a_record_that_is_none_of_ours_says_so(new_loop: NewLoop, spans: Spans) -> None:
    async def wait(future: Any) -> None:
        await future

    async def main() -> None:
        loop = asyncio.get_running_loop()
        future: Any = loop.create_future()
        task: Any = loop.create_task(wait(future))
        await asyncio.sleep(0)
        [(wake_up, context)] = future._callbacks
        kept, task._otel_asyncio = task._otel_asyncio, object()
        with pytest.raises(TypeError, match="a task's record is a Cell with a step, not object"):
            loop.call_soon(wake_up, future, context=context)
        task._otel_asyncio = kept
        future.set_result(None)
        await task

    with instrumented(spans):
        run_on(new_loop, main())


async def many_tasks() -> None:
    async def child(n: int) -> int:
        await asyncio.sleep(0)
        if n % 3 == 1:
            raise ValueError(n)
        if n % 3 == 2:
            await asyncio.get_running_loop().create_future()
        return n

    tasks = [asyncio.create_task(child(n)) for n in range(300)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("debug", (False, True), ids=("plain", "debug"))
@pytest.mark.parametrize("root_tasks", ("all", "none"))
def test_nothing_leaks_over_many_runs(new_loop: NewLoop, root_tasks: str, debug: bool) -> None:
    """Blocks of memory after each run: from the third on, as many as before."""
    blocks = []
    for _ in range(6):
        spans = Spans()
        with instrumented(spans, root_tasks=root_tasks):
            run_on(new_loop, many_tasks(), debug=debug)
        spans.sdk.shutdown()
        del spans
        gc.collect()
        blocks.append(sys.getallocatedblocks())
    growth = [later - earlier for earlier, later in zip(blocks[2:], blocks[3:], strict=False)]
    assert min(growth) < 100, blocks  # 300 tasks, 1,000 steps: what leaked with each would show every time


PROGRAM = """
import asyncio, gc, os, sys
from otel_asyncio import AsyncioInstrumentor
AsyncioInstrumentor().instrument()
async def wait():
    await asyncio.sleep(3600)
async def main():
    global kept
    kept = [asyncio.create_task(wait()) for _ in range(10)]
    await asyncio.sleep(0)
    {then}
loop = asyncio.new_event_loop()
loop.run_until_complete(main())
"""


@pytest.mark.parametrize(
    "then",
    ("return", "sys.exit(0)", "loop.call_soon(print, 'never')", "del kept[:]; gc.collect()", "loop.stop()"),
)
def test_an_interpreter_that_ends_in_the_middle_ends_well(then: str) -> None:
    done = run_python(PROGRAM.format(then=then))
    assert done.returncode in ((0, 1) if then == "loop.stop()" else (0,)), done.stderr
    assert "Fatal" not in done.stderr


def test_after_a_fork_the_child_goes_on() -> None:
    if not hasattr(os, "fork"):
        pytest.skip("needs Python on a system with fork")
    then = """
    if os.fork():
        os.wait()
    else:
        anew = asyncio.new_event_loop()
        anew.run_until_complete(anew.create_task(asyncio.sleep(0)))
        print("child", flush=True)
        os._exit(0)
    print("parent")"""
    done = run_python(PROGRAM.format(then=then))
    assert (done.returncode, done.stdout.split()) == (0, ["child", "parent"]), done.stderr


NO_MEMORY = """
import asyncio, contextvars, logging, sys, time, _testcapi
from opentelemetry import context, trace
from opentelemetry.sdk.trace import TracerProvider
from otel_asyncio import AsyncioInstrumentor, Settings
from otel_asyncio.observe.resources import Locks

settings = Settings(block_threshold=float("inf"), stuck_after=float("inf"))  # no thread, whose allocations would count
AsyncioInstrumentor().instrument(tracer_provider=TracerProvider(), settings=settings)
logging.getLogger("otel_asyncio").addHandler(logging.NullHandler())

async def wait(future):
    await future

def without_memory(n, act):
    failed = False
    _testcapi.set_nomemory(n, n + 1)
    try:
        act()
    except MemoryError:
        failed = True
    finally:
        _testcapi.remove_mem_hooks()
    return failed

def go_on(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()

def waiting(loop):
    future = loop.create_future()
    task = loop.create_task(wait(future))
    go_on(loop)
    [(wake_up, context)] = future._callbacks
    return future, task, wake_up, context

def plain(loop, n):
    ran, context = [], contextvars.copy_context()
    callback = ran.append
    failed = without_memory(n, lambda: loop.call_soon(callback, 1, context=context))
    go_on(loop)
    assert ran == [1] * (not failed), (n, ran, failed)
    return failed

def announced(loop, n):
    future, task, wake_up, context = waiting(loop)
    held = [loop.call_soon(wake_up, future, context=context) for _ in range(100)]  # so that no spare one is left
    loop._ready.clear()
    failed = without_memory(n, lambda: loop.call_soon(wake_up, future, context=context))
    assert len(loop._ready) == (not failed), n
    loop._ready.clear()
    future.set_result(None)
    loop.run_until_complete(task)
    return failed

def cancelled(loop, n):
    future, task, wake_up, context = waiting(loop)
    held = [loop.call_soon(wake_up, future, context=context) for _ in range(100)]
    for handle in held:
        handle._args = ()  # each takes a stand-in, so that no spare one is left
    handle = loop.call_soon(wake_up, future, context=context)
    failed = without_memory(n, handle.cancel)
    assert handle.cancelled()
    loop._ready.clear()
    future.set_result(None)
    loop.run_until_complete(task)
    return failed

def run(loop, n):
    future, task, wake_up, context = waiting(loop)
    future.set_result(None)
    handle = loop._ready.popleft()
    told = []
    loop.call_exception_handler = told.append
    asyncio._set_running_loop(loop)
    failed = without_memory(n, handle._run)
    asyncio._set_running_loop(None)
    del loop.call_exception_handler
    cell = loop._otel_asyncio
    assert (cell.frameless, cell.running, cell.innermost) == (0, None, None), n
    go_on(loop)
    assert task.done() or failed or told, n
    task._log_destroy_pending = False
    return failed or not task.done() or task.exception() is not None

unsampled = contextvars.copy_context()
unsampled.run(context.attach, trace.set_span_in_context(trace.NonRecordingSpan(trace.SpanContext(1, 2, False))))

def created(loop, n):
    unsampled.run(loop.create_task, wait(loop.create_future())).cancel()  # from here on the surroundings are known
    go_on(loop)
    coro, make, shard = wait(loop.create_future()), loop.create_task, loop._otel_asyncio.shard
    made, before = [None], shard.started

    def act():
        made[0] = unsampled.run(make, coro, name="a name")

    failed = without_memory(n, act)
    assert shard.started - before == (not failed), n
    coro.close()
    if made[0] is not None:
        made[0]._log_destroy_pending = False
    loop._ready.clear()
    return failed

def locked(loop, n):
    locks = Locks(time.perf_counter_ns)
    stop, lock = locks.install(), asyncio.Lock()
    failed = without_memory(n, lambda: setattr(lock, "_locked", True))
    assert lock.locked() and not failed, n
    stop()
    return locks._guard.failed

failures = {}
for attempt in plain, announced, cancelled, run, created, locked:
    loop = asyncio.new_event_loop()
    attempt(loop, 10**6)
    failures[attempt.__name__] = sum(attempt(loop, n) for n in range(40))
    loop.close()
print(failures)
"""


@compiled_only
def test_an_allocation_that_fails_is_a_memory_error_and_no_step_is_lost() -> None:
    """One allocation at a time, in nothing but our calls: others crash the bare interpreter."""
    pytest.importorskip("_testcapi", reason="needs Python with its own tests")
    done = run_python(NO_MEMORY)
    assert done.returncode == 0, done.stderr
    failures = ast.literal_eval(done.stdout)
    assert all(failures[what] for what in ("plain", "announced", "cancelled", "created", "locked")), failures


NO_MEMORY_FOR_A_RECORD = """
import asyncio, gc, logging, sys, weakref, _testcapi
from opentelemetry.sdk.trace import TracerProvider
from otel_asyncio import AsyncioInstrumentor, Settings

new_loop = __import__(sys.argv[1]).new_event_loop
settings = Settings(block_threshold=float("inf"), stuck_after=float("inf"))  # no thread, whose allocations would count
provider, instrumentor = TracerProvider(), AsyncioInstrumentor()
tracer = provider.get_tracer("no memory")
logging.getLogger("otel_asyncio").addHandler(logging.NullHandler())
gc.disable()

async def wait(future):
    await future

async def make(n):
    loop = asyncio.get_running_loop()
    done, future = loop.create_future(), loop.create_future()
    done.set_result(None)
    await loop.create_task(wait(done), name="a name")  # from here on all is known of this code
    state, make, coro, task = loop._otel_asyncio, loop.create_task, wait(future), None
    before = state.shard.started, len(state.alive)
    _testcapi.set_nomemory(n, n + 1)
    try:
        task = make(coro, name="a name")
        what = "made"
    except MemoryError:
        what = "refused"
    finally:
        _testcapi.remove_mem_hooks()
    timed = task is not None and task._otel_asyncio.timed
    if task is not None and not timed:
        assert state.observation.creation.failed, n
        what = "counted"
    after = state.shard.started, len(state.alive)
    assert (after[0] - before[0], after[1] - before[1]) == (task is not None, timed), (n, what, before, after)
    future.set_result(None)
    if task is None:
        await asyncio.sleep(0)  # it may have been announced, and asyncio could not enter it into its list
        coro.close()
    else:
        await task
    return what, weakref.ref(coro)

async def main(n):
    with tracer.start_as_current_span("request"):
        return await asyncio.create_task(make(n), name="maker")

seen = []
for n in range(60):
    instrumentor.instrument(tracer_provider=provider, settings=settings)
    loop = new_loop()
    what, coro = loop.run_until_complete(main(n))
    loop.close()
    instrumentor.uninstrument()
    assert coro() is None, (n, what)
    seen.append(what)
print(seen)
"""


@compiled_only
@pytest.mark.parametrize("kind", LOOP_KINDS)
def test_where_an_allocation_fails_a_task_is_made_all_the_same_or_nothing_is_left_of_it(kind: str) -> None:
    """One allocation at a time, of those that making a recorded task takes, whoever makes them."""
    pytest.importorskip("_testcapi", reason="needs Python with its own tests")
    loop_maker(kind)
    done = run_python(NO_MEMORY_FOR_A_RECORD, kind)
    assert done.returncode == 0, done.stderr
    seen = ast.literal_eval(done.stdout)
    assert {"made", "counted", "refused"} == set(seen), seen
    assert set(seen[-10:]) == {"made"}, seen  # as many as there are


@needs_python(3, 13)
@compiled_only
@pytest.mark.parametrize("kind", ("isolated", "legacy"))
def test_each_interpreter_has_a_hook_of_its_own(kind: str) -> None:
    """Twice in one process: nothing is shared between two interpreters, and nothing is left by the first."""
    inner = "from otel_asyncio.observe import _compiled as c; c.Cell(); c.Step(print, print); assert c.TimedCell().steps == 0"
    program = (
        "import sys, types, importlib.util\n"
        "import _interpreters as interpreters\n"
        f"inner = {inner!r}\n"
        "folder = importlib.util.find_spec('otel_asyncio').submodule_search_locations[0]\n"
        "package = 'import sys, types; p = types.ModuleType(\"otel_asyncio\"); p.__path__ = [%r];'\n"
        "package += 'sys.modules[\"otel_asyncio\"] = p\\n'\n"
        "for _ in range(2):\n"
        f"    interpreter = interpreters.create({kind!r})\n"
        "    failed = interpreters.run_string(interpreter, package % folder + inner)\n"
        "    assert failed is None, failed\n"
        "    interpreters.destroy(interpreter)\n"
        "print('done')"
    )
    assert said(run_python(program)) == (0, "done", "")


def test_the_hooks_of_a_loop_do_not_keep_it(new_loop: NewLoop, spans: Spans) -> None:
    import weakref

    with instrumented(spans):
        loop = new_loop()
        loop.run_until_complete(many_tasks())
        loop.close()
        ref = weakref.ref(loop)
        del loop
        gc.collect()
        assert ref() is None
