"""What is done when the last step of a task is over. Every task comes by, so whatever can be looked up once, is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.outcomes import outcome_of
from otel_asyncio.observe.records import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_asyncio.observe.observation import Observation
    from otel_asyncio.observe.records import TaskRecord

_SUCCESS, _CANCELLATION = Outcome.SUCCESS, Outcome.CANCELLATION


def make_finish(observation: Observation) -> Callable[..., None]:
    """What ends a recorded task, whose last step was woken with `future`."""
    ending, closed, misuses = observation.ending, observation.sink.closed, observation.misuses
    timeouts, cancellations, outbox = observation.timeouts, observation.cancellations, observation.outbox

    def finish(record: TaskRecord, task: Any, future: Any = None) -> None:
        try:
            loop = record.loop
            shard = loop.shard
            record.name = task.get_name()
            # Not exception(): that would mark the exception as retrieved.
            error, cancelled = task._exception, task.cancelled()
            if error is None and not cancelled:
                record.end(_SUCCESS, record.suspended)
                shard.succeeded += 1
            else:
                outcome = _CANCELLATION if cancelled else outcome_of(error)
                record.end(outcome, record.suspended)
                shard.ended[outcome] += 1
            shard.recorded += 1
            shard.steps += record.steps
            if timeouts.pending:
                timeouts.ended(record, error, cancelled=cancelled)
            if not ending.failed:
                closed(record, error)
            if loop.metered:
                shard.durations.offer(record)
            if cancelled or record.cancellation is not None or loop.shutdown is not None:
                cancellations.ended(record, task, future)
            if type(error) is RuntimeError:
                misuses.look_at(error, task, record)
            if outbox:
                observation.drain()
        except Exception as failure:  # noqa: BLE001 - the border of the package
            ending.fail(failure)

    return finish


def make_finish_unrecorded(observation: Observation) -> Callable[..., None]:
    """What ends a task without a record."""
    misuses, timeouts = observation.misuses, observation.timeouts
    cancellations, outbox, now = observation.cancellations, observation.outbox, observation.clock.monotonic_ns

    def finish_unrecorded(task: Any, future: Any = None) -> None:
        if not cancellations.active:  # its loop is no longer observed
            return
        try:
            error, cancelled = task._exception, task.cancelled()
            outcome = _CANCELLATION if cancelled else _SUCCESS if error is None else outcome_of(error)
            record = task._otel_asyncio
            task.get_loop()._otel_asyncio.shard.ended[outcome] += 1
            if type(error) is RuntimeError:
                misuses.look_at(error, task, None)
            if cancelled or record.cancellation is not None:
                cancellations.ended(record, task, future)
            if record.glimpse is not None:
                record.glimpse.end(outcome, now())
            if timeouts.pending:
                timeouts.ended(record, error, cancelled=cancelled)
            if outbox:
                observation.drain()
        except Exception as failure:  # noqa: BLE001 - the border of the package
            observation.ending.fail(failure)

    return finish_unrecorded
