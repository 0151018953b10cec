"""What to do about each problem: one sentence for each word of the contract."""

from __future__ import annotations

ADVICE = {
    "loop_blocked": "Nothing else could run meanwhile: move this call into a thread (asyncio.to_thread) or a process,"
    " or use an asynchronous one.",
    "timeout": "What it waited for did not come in time: make that faster, allow more time, or answer without it.",
    "cancel_suppressed": "The cancellation was swallowed here: raise CancelledError again after cleaning up.",
    "stuck": "It still waits here: see who is to end this wait, and put a timeout around it.",
    "deadlock": "Each of these waits for the next: take the locks in one order everywhere.",
    "exception_never_retrieved": "The task failed and nobody looked: await it, or start it in a TaskGroup.",
    "task_destroyed_pending": "The last reference to the task went away while it ran: keep one until it is done.",
    "coroutine_never_awaited": "The call only made a coroutine: await it, or make a task of it.",
    "asyncgen_not_closed": "The generator was left open and closed by the collector: use contextlib.aclosing().",
    "resource_not_closed": "It was left to the collector to close: use `async with`, or close it in `finally`.",
    "loop_already_running": "A loop runs in this thread already: await the coroutine instead of running it.",
    "nested_run": "asyncio.run() was called inside a running loop: await the coroutine instead.",
    "loop_closed": "The loop was closed before this call: end what uses it first.",
    "wrong_loop": "It belongs to another loop: make it in the loop that uses it.",
    "wrong_thread": "Loops are not thread-safe: use loop.call_soon_threadsafe() or asyncio.run_coroutine_threadsafe().",
    "task_growth": "Tasks are made here faster than they end: bound them by a semaphore or a queue with workers.",
    "executor_saturated": "Calls wait for a free thread: make the pool larger, or the calls fewer or shorter.",
    "error": "This exception left the task.",
    "cancelled": "It was ended before it was done: the line above asked for it.",
}
"""The keys `error` and `cancelled` are for findings that are no problems of the contract."""


def advice(word: str) -> str:
    """The sentence for a problem; empty for a word that this version does not know."""
    return ADVICE.get(word, "")
