"""T4: a task looks from outside as it does without tracing: its coroutine, its stack, its repr."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from typing import Any

from harness import TracedRun, both_ways, needs_python, without_numbers

from otel_asyncio.observe.flavour import FLAVOUR

pytestmark = both_ways


async def leaf(event: asyncio.Event) -> None:
    await event.wait()


async def waiter(event: asyncio.Event) -> None:
    await leaf(event)


async def fail() -> None:
    raise LookupError("for its traceback")


def test_the_coroutine_of_a_task_is_the_one_given(traced_run: TracedRun) -> None:
    """T4: no coroutine is ever wrapped."""

    async def main() -> bool:
        coro = leaf(asyncio.Event())
        task = asyncio.create_task(coro)
        await asyncio.sleep(0)
        task.cancel()
        return task.get_coro() is coro

    assert traced_run(main())


def test_the_outermost_frame_is_the_users(traced_run: TracedRun) -> None:
    """T4."""

    async def main() -> list[Any]:
        task = asyncio.create_task(waiter(asyncio.Event()))
        await asyncio.sleep(0)
        frames = [frame.f_code for frame in task.get_stack()]
        task.cancel()
        return frames

    assert traced_run(main()) == [waiter.__code__]


async def printed_stack_of_pending() -> str:
    task = asyncio.create_task(waiter(asyncio.Event()))
    await asyncio.sleep(0)
    out = io.StringIO()
    task.print_stack(file=out)
    task.cancel()
    return without_numbers(out.getvalue())


async def printed_stack_of_failed() -> str:
    task = asyncio.create_task(fail())
    await asyncio.wait([task])
    out = io.StringIO()
    task.print_stack(file=out)
    task.exception()
    return without_numbers(out.getvalue())


async def stack_of_itself() -> list[str]:
    task = asyncio.current_task()
    assert task is not None
    names = [frame.f_code.co_qualname for frame in task.get_stack()]
    return names[names.index("Handle._run") :] if "Handle._run" in names else names[-1:]


def test_print_stack_of_a_pending_task_is_unchanged(same_as_bare: Callable[..., Any]) -> None:
    """T4."""
    assert "in waiter" in same_as_bare(printed_stack_of_pending)


def test_print_stack_of_a_failed_task_is_unchanged(same_as_bare: Callable[..., Any]) -> None:
    """T4."""
    assert "for its traceback" in same_as_bare(printed_stack_of_failed)


def test_the_stack_of_the_running_task_has_at_most_the_step_hook_more(
    run: Callable[..., Any], traced_run: TracedRun
) -> None:
    """T4: below a running coroutine lie the loop's frames, and there the hook in Python shows.

    Compiled, it runs the steps of asyncio's own loop without a frame, not even that of `Handle._run`.
    """
    traced, bare = traced_run(stack_of_itself()), run(stack_of_itself())
    if FLAVOUR == "compiled":
        assert traced[-1:] == bare[-1:]
        assert set(traced) <= set(bare)
    else:
        assert [name for name in traced if name != "make_step.<locals>.step"] == bare


async def reprs() -> list[str]:
    """What a task shows of itself in each state."""
    seen: list[str] = []
    pending = asyncio.create_task(waiter(asyncio.Event()), name="given")
    seen.append(repr(pending))
    await asyncio.sleep(0)
    seen += [repr(pending), str(type(pending)), type(pending).__qualname__]
    pending.cancel()
    seen.append(repr(pending))
    failed = asyncio.create_task(fail())
    await asyncio.wait([pending, failed])
    seen += [repr(pending), repr(failed), repr(failed.exception())]
    return [without_numbers(text) for text in seen]


def test_repr_is_unchanged_in_every_state(same_as_bare: Callable[..., Any]) -> None:
    """T4."""
    same_as_bare(reprs)


def test_repr_is_unchanged_in_debug_mode(same_as_bare: Callable[..., Any]) -> None:
    """T4: `created at` names the user's line."""
    seen = same_as_bare(reprs, debug=True)
    assert "created at" in seen[0] and "test_identity.py" in seen[0]


def test_a_task_is_an_instance_of_task(traced_run: TracedRun) -> None:
    """T4."""

    async def main() -> bool:
        return isinstance(asyncio.current_task(), asyncio.Task)

    assert traced_run(main())


def test_a_subclass_of_task_by_the_program_still_works(same_as_bare: Callable[..., Any]) -> None:
    """T4: such classes add slots, take arguments, override `cancel`."""

    class Mine(asyncio.Task):  # type: ignore[type-arg]
        cancels = 0

        def cancel(self, msg: Any = None) -> bool:
            self.cancels += 1
            return super().cancel(msg)

    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        task = Mine(waiter(asyncio.Event()), loop=loop, name="mine")
        await asyncio.sleep(0)
        task.cancel("stop")
        await asyncio.wait([task])
        return [type(task) is Mine, task.cancels, task.cancelled(), task.get_name(), isinstance(task, asyncio.Task)]

    assert same_as_bare(main) == [True, 1, True, "mine", True]


def test_a_task_can_be_given_attributes(same_as_bare: Callable[..., Any]) -> None:
    """T4: a task of asyncio takes any."""

    async def main() -> list[Any]:
        task: Any = asyncio.create_task(asyncio.sleep(0))
        task.note = "mine"
        await task
        return [task.note, hasattr(task, "other")]

    assert same_as_bare(main) == ["mine", False]


def test_a_task_can_be_weakly_referenced_and_hashed(same_as_bare: Callable[..., Any]) -> None:
    """T4: all_tasks() and everybody's registries are weak sets."""

    async def main() -> int:
        task = asyncio.create_task(asyncio.sleep(0))
        count = len(asyncio.all_tasks() & {task})
        await task
        return count

    assert same_as_bare(main) == 1


@needs_python(3, 14)
def test_the_call_graph_is_unchanged(same_as_bare: Callable[..., Any]) -> None:
    """T4: `python -m asyncio pstree` reads the same structures."""

    async def main() -> str:
        task = asyncio.create_task(waiter(asyncio.Event()), name="seen")
        await asyncio.sleep(0)
        text = asyncio.format_call_graph(task)  # type: ignore[attr-defined,unused-ignore]
        task.cancel()
        return without_numbers(text)

    assert "leaf" in same_as_bare(main)
