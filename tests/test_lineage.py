"""Lineages deeper than the stack, and long ones of which nothing may be kept."""

from __future__ import annotations

import asyncio
import gc

from harness import Spans, TracedRun, both_providers, both_ways

from otel_asyncio.observe.records import TaskRecord

pytestmark = [both_providers, both_ways]


def test_a_lineage_of_thousands_does_not_exhaust_the_stack(traced_run: TracedRun, spans: Spans) -> None:
    """A worker that starts its successor and ends: each task is a child of the one before."""
    done = 0

    async def link(left: int, finished: asyncio.Event) -> None:
        nonlocal done
        done += 1
        if left:
            asyncio.get_running_loop().create_task(link(left - 1, finished))
        else:
            finished.set()

    async def main() -> None:
        finished = asyncio.Event()
        asyncio.get_running_loop().create_task(link(5000, finished))
        await finished.wait()

    traced_run(main(), min_task_duration=60)
    assert done == 5001


def test_a_deep_chain_that_waits_is_recorded_whole(traced_run: TracedRun, spans: Spans) -> None:
    """Each task awaits the next; the innermost opens a span, which calls for the ids of all."""

    async def nest(left: int) -> None:
        if left:
            await asyncio.create_task(nest(left - 1))
        else:
            with spans.tracer.start_as_current_span("innermost"):
                await asyncio.sleep(0)

    traced_run(nest(500))
    assert len(spans.of("nest")) in (500, 501)


def test_a_dropped_lineage_keeps_nothing_alive(traced_run: TracedRun, provider_kind: str) -> None:
    """Of a chain of dropped spans only the ends are held."""

    async def link(left: int, finished: asyncio.Event) -> None:
        if left:
            asyncio.get_running_loop().create_task(link(left - 1, finished))
        else:
            finished.set()

    async def main() -> int:
        finished = asyncio.Event()
        asyncio.get_running_loop().create_task(link(500, finished))
        await finished.wait()
        gc.collect()
        records = (item for item in gc.get_objects() if type(item) is TaskRecord)
        return sum(record.code.code is link.__code__ for record in records)

    assert traced_run(main(), min_task_duration=60) < 50
