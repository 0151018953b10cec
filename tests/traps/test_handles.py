"""The handles that `call_soon` gives, and those of a task's steps, are what asyncio's own are."""

from __future__ import annotations

import asyncio
import contextvars
import re
import sys
import traceback
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from harness import NewLoop, Spans, TracedRun, asyncio_only, both_ways, instrumented, run_on, without_numbers
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_asyncio.observe import flavour

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="default")
compiled = flavour.FLAVOUR == "compiled"


async def child(log: list[str], future: Any = None) -> None:
    log.append("first step")
    if future is not None:
        await future
        log.append("second step")


def announced() -> asyncio.Handle:
    """The handle that was queued last."""
    loop: Any = asyncio.get_running_loop()
    handle: asyncio.Handle = loop._ready[-1]
    return handle


def facts(handle: Any) -> dict[str, Any]:
    """What can be told of a handle without running it. What is shown of the callback: compiled, asyncio's own."""
    shown = {
        "callback": type(handle._callback.__self__).__name__,
        "callback shown": without_numbers(repr(handle)),
        "arguments": without_numbers(repr(handle._args)),
        "name": getattr(handle._callback, "__name__", None),
    }
    return {
        "handle": isinstance(handle, asyncio.Handle),
        "class": (type(handle).__name__, type(handle).__module__),
        "cancelled": handle.cancelled(),
        "context": type(handle.get_context()) if hasattr(handle, "get_context") else type(handle._context),
        "variable": handle._context.get(VARIABLE),
        "weakly": weakref.ref(handle)() is handle,
        "made": handle._source_traceback,
    } | (shown if compiled else {})


@asyncio_only
@both_ways
def test_the_handle_of_a_step_is_a_handle(same_as_bare: Callable[..., Any]) -> None:
    async def main() -> Any:
        VARIABLE.set("set")
        future = asyncio.get_running_loop().create_future()
        log: list[str] = []
        task = asyncio.create_task(child(log, future))
        first = facts(announced())
        await asyncio.sleep(0)
        future.set_result(None)
        second = facts(announced())
        await task
        return first, second, log

    first, second, log = same_as_bare(main)
    assert (first["variable"], second["handle"], log) == ("set", True, ["first step", "second step"])


@asyncio_only
@both_ways
@pytest.mark.parametrize("debug", (False, True), ids=("plain", "debug"))
def test_a_step_whose_handle_is_cancelled_does_not_run(same_as_bare: Callable[..., Any], debug: bool) -> None:
    async def main() -> Any:
        log: list[str] = []
        task = asyncio.create_task(child(log))
        handle: Any = announced()
        handle.cancel()
        handle.cancel()
        seen = [handle.cancelled(), handle._callback, handle._args, handle in asyncio.get_running_loop()._ready]
        await asyncio.sleep(0)
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        task.get_coro().close()  # type: ignore[union-attr]
        return seen, log, without_numbers(repr(handle)) if not debug else None

    seen, log, _ = same_as_bare(main, debug=debug)
    assert (seen[:3], log) == ([True, None, None], [])


@asyncio_only
@both_ways
def test_a_handle_whose_callback_is_changed_runs_the_other(same_as_bare: Callable[..., Any]) -> None:
    async def main() -> Any:
        log: list[Any] = []
        task = asyncio.create_task(child(log))
        handle: Any = announced()
        run, arguments = handle._callback, handle._args
        handle._callback, handle._args = lambda *seen: log.append(len(seen)), (1, 2)
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(run, *arguments)
        await task
        return log

    assert same_as_bare(main) == [2, "first step"]


def reported_by(body: Callable[[], Any]) -> Callable[[], Any]:
    """A program that gives what the loop's exception handler is told."""

    async def main() -> list[Any]:
        loop, told = asyncio.get_running_loop(), []

        def handler(_: Any, context: dict[str, Any]) -> None:
            error = context["exception"]
            frames = [entry.name for entry in traceback.extract_tb(error.__traceback__)]
            if not compiled:
                frames = [name for name in frames if name != "step"]
            message = without_numbers(context["message"]) if compiled else ""
            told.append((message, sorted(context), type(error), without_numbers(str(error)), frames))

        loop.set_exception_handler(handler)
        body()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return told

    return main


def fail(*_: Any) -> None:
    raise ValueError("of the callback")


@both_ways
def test_what_a_callback_raises_is_reported_as_ever(same_as_bare: Callable[..., Any]) -> None:
    told = same_as_bare(reported_by(lambda: asyncio.get_running_loop().call_soon(fail, 1, 2)))
    assert [error for _, _, error, _, _ in told] == [ValueError]


@asyncio_only
@both_ways
def test_what_a_step_cannot_do_is_reported_as_ever(same_as_bare: Callable[..., Any]) -> None:
    """A step that is run by hand inside another is refused by asyncio, or finds its context entered."""

    def body() -> None:
        coro = child([])
        asyncio.get_running_loop().create_task(coro)
        announced()._run()

    told = same_as_bare(reported_by(body))
    assert [error for _, _, error, _, _ in told] == [RuntimeError]


@asyncio_only
@both_ways
def test_debug_switched_on_in_the_middle_sees_the_steps(
    same_as_bare: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> Any:
        loop: Any = asyncio.get_running_loop()
        log: list[str] = []
        task = loop.create_task(child(log), name="slow one")
        loop.slow_callback_duration = 0
        loop.set_debug(True)
        await task
        loop.set_debug(False)
        loop.slow_callback_duration = 10
        return log, [without_numbers(r.message) for r in caplog.records if "slow one" in r.message][:1]

    caplog.set_level("WARNING", "asyncio")

    async def fresh() -> Any:
        caplog.clear()
        return await main()

    _, logged = same_as_bare(fresh)
    assert logged
    assert "<Task" in logged[0]


@asyncio_only
@both_ways
@pytest.mark.parametrize("kind", (SystemExit, KeyboardInterrupt))
def test_an_exit_in_a_callback_leaves_the_loop(run: Any, traced_run: TracedRun, kind: Any) -> None:
    def leave() -> None:
        raise kind("now")

    async def main() -> None:
        asyncio.get_running_loop().call_soon(leave)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def frames(runner: Any) -> list[str]:
        with pytest.raises(kind) as caught:
            runner(main())
        names = [entry.name for entry in traceback.extract_tb(caught.value.__traceback__)]
        return names[names.index("run_until_complete") :]

    assert frames(traced_run) == frames(run)


# ---- argument shapes ----


def nothing(*_: Any) -> None:
    pass


VALUES = (nothing, None, 1, "text", nothing.__call__, print, contextvars.copy_context())
shapes = st.tuples(
    st.lists(st.sampled_from(VALUES), max_size=10),
    st.dictionaries(st.sampled_from(["context", "callback", "args", "other"]), st.sampled_from(VALUES), max_size=2),
)


def outcome(loop: Any, arguments: list[Any], keywords: dict[str, Any]) -> Any:
    try:
        handle = loop.call_soon(*arguments, **keywords)
    except Exception as error:
        return type(error), re.sub(r"\S*call_soon\(", "call_soon(", without_numbers(str(error)))
    seen = type(handle).__name__, getattr(handle, "_args", None), handle.cancelled()
    handle.cancel()
    return seen


@pytest.mark.parametrize("debug", (False, True), ids=("plain", "debug"))
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(shape=shapes)
def test_any_call_of_call_soon_gives_what_it_gives_bare(debug: bool, shape: Any) -> None:
    arguments, keywords = shape

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)
        return outcome(loop, arguments, keywords)

    spans = Spans()
    bare = run_on(asyncio.new_event_loop, main(), debug=debug)
    with instrumented(spans):
        traced = run_on(asyncio.new_event_loop, main(), debug=debug)
    spans.sdk.shutdown()
    assert traced == bare


@asyncio_only
def test_a_closed_loop_refuses_callbacks_as_ever(new_loop: NewLoop, spans: Spans) -> None:
    def refusal() -> str:
        loop = new_loop()
        loop.close()
        with pytest.raises(RuntimeError) as caught:
            loop.call_soon(nothing)
        return str(caught.value)

    bare = refusal()
    with instrumented(spans):
        assert refusal() == bare


@both_ways
def test_a_callback_lives_no_longer_than_its_handle(traced_run: TracedRun) -> None:
    class Callback:
        def __call__(self) -> None:
            pass

    async def main() -> bool:
        callback = Callback()
        ref = weakref.ref(callback)
        asyncio.get_running_loop().call_soon(callback)
        before = sys.getrefcount(callback)
        await asyncio.sleep(0)
        assert sys.getrefcount(callback) < before
        del callback
        return ref() is None

    assert traced_run(main())
