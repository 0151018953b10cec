"""What a library says was left open: told once, with the task that dropped it, where that is certain."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from harness import Spans, TracedRun, attributes, both_ways, instrumented, parent_id, run_on, span_id

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

SOURCE = Path(__file__).read_text(encoding="utf-8").splitlines()
NAME = "asyncio.resource_not_closed"


async def leaks() -> None:
    session = aiohttp.ClientSession()  # made
    await asyncio.sleep(0)
    assert not session.closed


async def leaves_it_to_the_collector() -> None:
    circle: list[Any] = [aiohttp.ClientSession()]
    circle.append(circle)
    await asyncio.sleep(0)
    del circle
    gc.collect()


async def closes() -> None:
    async with aiohttp.ClientSession():
        await asyncio.sleep(0)


class Pool:
    """As redis, aiomysql and aiokafka do it."""

    def __del__(self) -> None:
        asyncio.get_running_loop().call_exception_handler({"pool": self, "message": "Unclosed pool"})


async def leaks_a_pool() -> None:
    pool = Pool()
    await asyncio.sleep(0)
    assert pool


def told(spans: Spans) -> list[Any]:
    return [span for span in spans.all() if span.name == NAME]


def line_of(span: Any) -> str:
    return SOURCE[attributes(span)["code.line.number"] - 1]


@pytest.fixture
def messages(caplog: pytest.LogCaptureFixture) -> Any:
    return lambda: [record.getMessage() for record in caplog.records if record.name == "otel_asyncio.problem"]


@both_ways
@pytest.mark.parametrize("program", (leaks, leaks_a_pool))
def test_it_is_told_of_the_task_that_dropped_it(
    traced_run: TracedRun, spans: Spans, program: Any, messages: Any
) -> None:
    async def main() -> None:
        await asyncio.create_task(program())

    traced_run(main(), block_threshold=60)
    (problem,) = told(spans)
    task = spans.task(program.__name__)
    assert attributes(problem)["asyncio.problem"] == "resource_not_closed"
    assert parent_id(problem) == span_id(task)
    assert attributes(problem)["code.function.name"].endswith(f".{program.__name__}")
    (message,) = messages()
    assert ("Unclosed client session (ClientSession)" if program is leaks else "Unclosed pool (Pool)") in message


@both_ways
def test_the_line_that_made_it_is_told_where_the_library_knows_it(traced_run: TracedRun, spans: Spans) -> None:
    traced_run(leaks(), debug=True, block_threshold=60)
    (problem,) = told(spans)
    assert line_of(problem).endswith("# made")


def test_whoever_the_collector_interrupts_is_not_blamed(new_loop: Any, spans: Spans, messages: Any) -> None:
    with instrumented(spans, block_threshold=60):
        run_on(new_loop, leaves_it_to_the_collector())
    assert told(spans) == []  # it belongs to no task, and so to no trace
    (message,) = messages()
    assert "aiohttp.client.ClientSession" in message


def test_where_nobody_looks_for_collections_nobody_is_blamed(new_loop: Any, spans: Spans, messages: Any) -> None:
    with instrumented(spans):
        run_on(new_loop, leaks())
    assert told(spans) == []
    assert len(messages()) == 1


def test_what_is_closed_is_no_problem(traced_run: TracedRun, spans: Spans, messages: Any) -> None:
    traced_run(closes(), block_threshold=60)
    assert told(spans) == []
    assert messages() == []


@pytest.mark.parametrize(
    "context",
    ({"message": "Unclosed"}, {"message": "Unclosed door"}, {"message": None, "door": 1}, {"door": 1}, {}),
    ids=str,
)
def test_other_messages_are_nobodys_problem(new_loop: Any, spans: Spans, context: Any, messages: Any) -> None:
    async def program() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        asyncio.get_running_loop().call_exception_handler(context)

    with instrumented(spans):
        run_on(new_loop, program())
    assert messages() == []
