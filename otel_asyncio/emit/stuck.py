"""What hangs becomes a span while it hangs, one line in the log, and a count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.trace import SpanContext

from otel_asyncio.emit import names
from otel_asyncio.emit.awaits import holder_attributes, holder_span
from otel_asyncio.emit.current import is_suppressed, telemetry_context
from otel_asyncio.emit.intervals import ids_of, link_to
from otel_asyncio.emit.stacks import frame_attributes, stacktrace
from otel_asyncio.observe.problems import ProblemKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextvars import Context

    from otel_asyncio.emit.intervals import Intervals, LinkTo
    from otel_asyncio.emit.problems import ProblemReporter
    from otel_asyncio.observe.chain import Chain
    from otel_asyncio.observe.hands import Work
    from otel_asyncio.observe.records import TaskRecord
    from otel_asyncio.observe.resources import Hold
    from otel_asyncio.observe.stuck import Deadlock, Member, Stuck

_SECOND = 1e9
_MOST_LINKS = 8


class StuckSpans:
    """An implementation of `observe.stuck.StuckReporter`.

    `open_span`: the span of the program that is open in a task, in a context of it.
    """

    def __init__(
        self, intervals: Intervals, problems: ProblemReporter, open_span: Callable[[TaskRecord, Context | None], Any]
    ) -> None:
        self._intervals = intervals
        self._problems = problems
        self._open_span = open_span

    def parent(self, record: TaskRecord, context: Context | None) -> Any:
        """The innermost recorded span of the program open in a suspended task, or its own below one; else None."""
        own = record.span
        if own is None or isinstance(own, SpanContext) or own.place is None:
            return None
        if context is not None:
            if is_suppressed(telemetry_context(context)):
                return None
            current = self._open_span(record, context)
            if current is not None and current.is_recording():
                return current
        return None if own.place.rooted or own.place.parent is None else own

    def stuck(self, stuck: Stuck) -> None:
        """Report a wait that lasts."""
        if not self._problems.admits(ProblemKind.STUCK):
            return
        hang = stuck.hang
        record, age = hang.record, stuck.end - hang.since
        attributes = {
            names.PROBLEM: str(ProblemKind.STUCK),
            names.STUCK_SINCE: age / _SECOND,
            names.STUCK_REPORT: stuck.report,
            names.STUCK_COUNT: stuck.tasks,
            names.TASK_ID: record.id,
            **_wait_attributes(hang.chain, hang.resource, hang.hold, stuck.end),
            **_work_attributes(hang.chain, hang.work),
        }
        ids = self._emit(
            ProblemKind.STUCK, record, hang.parent, stuck.start, stuck.end, attributes, _holders([hang.hold])
        )
        what = f"{stuck.tasks} {'tasks wait' if stuck.tasks > 1 else 'task waits'} for {hang.chain.target}"
        self._problems.write(ProblemKind.STUCK, what, _where(attributes), age, attributes, ids)

    def deadlocked(self, deadlock: Deadlock) -> None:
        """Report tasks that wait for each other."""
        if not self._problems.admits(ProblemKind.DEADLOCK):
            return
        members, now = deadlock.members, deadlock.now
        youngest = members[deadlock.youngest]
        cycle = [_told(member, following) for member, following in zip(members, members[1:] + members[:1], strict=True)]
        attributes = {
            names.PROBLEM: str(ProblemKind.DEADLOCK),
            names.DEADLOCK_CYCLE: tuple(cycle),
            **_wait_attributes(youngest.chain, youngest.resource, youngest.hold, now),
        }
        parent = next((member.parent for member in (youngest, *members) if member.parent is not None), None)
        links = _holders([member.hold for member in members])
        record = youngest.record
        assert record is not None, "the youngest wait is one whose time is known"
        ids = self._emit(ProblemKind.DEADLOCK, record, parent, deadlock.since, now, attributes, links)
        what = f"{len(members)} tasks wait for each other: {'; '.join(cycle)}"
        lasted = now - deadlock.since
        self._problems.write(ProblemKind.DEADLOCK, what, _where(attributes), lasted, attributes, ids)

    def _emit(
        self,
        kind: ProblemKind,
        record: TaskRecord,
        parent: Any,
        start: int,
        end: int,
        attributes: dict[str, Any],
        links: Iterator[LinkTo],
    ) -> SpanContext | None:
        parent = parent or _own(record)
        made = self._intervals.emit(
            names.problem_span(kind), parent, record.wall_at(start), record.wall_at(end), attributes, tuple(links)
        )
        return made or (None if parent is None else ids_of(parent))


def _own(record: TaskRecord) -> Any:
    """The span of a task that no span of the program is above; None where it leaves its facts to a request's."""
    own = record.span
    return None if own is None or getattr(own, "yielded", False) or getattr(own, "dropped", False) else own


def _wait_attributes(chain: Chain, resource: str | None, hold: Hold | None, now: int) -> dict[str, Any]:
    attributes = {
        names.AWAIT_TARGET: chain.target,
        **frame_attributes(chain.blame or next(iter(chain.frames), None)),
    }
    if chain.frames:
        attributes[names.CODE_STACKTRACE] = stacktrace(chain.frames, chain.omitted)
    if resource is not None:
        attributes[names.RESOURCE_TYPE] = resource
    return attributes | (holder_attributes(hold, now) if hold is not None else {})


def _work_attributes(chain: Chain, work: Work | None) -> dict[str, Any]:
    """Of a wait for a thread: the line on which that stands, and its stack below the chain of awaits."""
    if work is None:
        return {}
    attributes = {names.THREAD_ID: work.thread, names.CODE_STACKTRACE: _one_stack(chain, work)}
    if work.name is not None:
        attributes[names.THREAD_NAME] = work.name
    return attributes | frame_attributes(work.blame)


def _one_stack(chain: Chain, work: Work) -> str:
    parts = stacktrace(chain.frames, chain.omitted), stacktrace(work.frames, work.omitted)
    return "\n".join(filter(None, parts))


def _holders(holds: list[Hold | None]) -> Iterator[LinkTo]:
    for hold in holds[:_MOST_LINKS]:
        span = None if hold is None else holder_span(hold)
        if span is not None and (ids := ids_of(span)).is_valid:
            yield link_to(ids, names.LINK_HOLDER)


def _told(member: Member, following: Member) -> str:
    """One task of a circle in words."""
    blame = member.chain.blame
    at = "" if blame is None else f" at {blame.code.file}:{blame.line}"
    told = f"task {member.qualname} waits{at} for "
    if member.hold is None:
        return f"{told}task {following.qualname}"
    site = member.hold.site
    since = "" if site is None else f" since {site.code.co_filename}:{site.line}"
    return f"{told}{member.resource} held by task {following.qualname}{since}"


def _where(attributes: dict[str, Any]) -> str:
    if names.CODE_FILE_PATH not in attributes:
        return "line unknown"
    return f"at {attributes[names.CODE_FILE_PATH]}:{attributes[names.CODE_LINE_NUMBER]}"
