"""A task's record as span attributes: seconds, names and lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import SpanContext

from otel_asyncio.emit import names
from otel_asyncio.observe.awaits import tally_of

if TYPE_CHECKING:
    from otel_asyncio.observe.code import CodeInfo
    from otel_asyncio.observe.records import Split, TaskRecord
    from otel_asyncio.observe.sites import Site

_SECOND = 1e9


def function_name(code: CodeInfo, qualname: str) -> str:
    """`code.function.name`: the module and the qualified name."""
    return f"{code.module}.{qualname}" if code.module else qualname


def ids_of(record: TaskRecord | None) -> SpanContext | None:
    """The ids of the task's span, where it has one that is or will be exported."""
    if record is None or record.span is None:
        return None
    if isinstance(record.span, SpanContext):
        return record.span
    return record.span.get_span_context()  # type: ignore[no-any-return]


def code_attributes(code: CodeInfo, qualname: str) -> dict[str, Any]:
    """Where a coroutine is defined."""
    attributes: dict[str, Any] = {names.CODE_FUNCTION_NAME: function_name(code, qualname)}
    if code.file is not None:
        attributes[names.CODE_FILE_PATH] = code.file
        attributes[names.CODE_LINE_NUMBER] = code.line
    return attributes


def created_attributes(site: Site | None) -> dict[str, Any]:
    """The line that made a task, where there is one."""
    if site is None:
        return {}
    return {
        names.TASK_CREATED_FILE: site.code.co_filename,
        names.TASK_CREATED_LINE: site.line,
        names.TASK_CREATED_FUNCTION: site.code.co_qualname,
    }


def start_attributes(record: TaskRecord) -> dict[str, Any]:
    """What is known when the task is created: what a sampler may look at."""
    return {
        names.TASK_ID: record.id,
        names.TASK_KIND: str(record.kind),
        names.EVENTLOOP_ID: record.loop.id,
        names.EVENTLOOP_IMPLEMENTATION: record.loop.implementation,
        **code_attributes(record.code, record.qualname),
        **created_attributes(record.site),
    }


def split_attributes(split: Split) -> dict[str, Any]:
    """The three-way split of an interval."""
    return {
        names.TASK_BUSY_TIME: split.busy / _SECOND,
        names.TASK_SCHEDULED_TIME: split.scheduled / _SECOND,
        names.TASK_IDLE_TIME: split.idle / _SECOND,
        names.TASK_STEPS: split.steps,
    }


def end_attributes(record: TaskRecord) -> dict[str, Any]:
    """What is known when the task has ended."""
    attributes = split_attributes(record.split(record.ended))
    attributes[names.TASK_OUTCOME] = str(record.outcome)
    if record.name is not None:
        attributes[names.TASK_NAME] = record.name
    if record.steps:
        attributes[names.TASK_MAX_STEP_TIME] = record.max_step / _SECOND
        attributes[names.TASK_MAX_IDLE_TIME] = record.max_idle / _SECOND
        attributes[names.TASK_START_DELAY] = (record.first_step - record.created) / _SECOND
    if (tally := tally_of(record)) is not None and tally.omitted:
        attributes[names.AWAIT_OMITTED] = tally.omitted
        attributes[names.AWAIT_OMITTED_TIME] = tally.omitted_time / _SECOND
    if record.problem is not None:
        attributes[names.PROBLEM] = str(record.problem)
    return attributes


class TaskAttributes(Mapping[str, Any]):
    """All attributes of an ended task, made when somebody reads them: in the exporter's thread, or never."""

    __slots__ = ("_made", "_record")

    def __init__(self, record: TaskRecord) -> None:
        self._record = record
        self._made: dict[str, Any] | None = None

    def _all(self) -> dict[str, Any]:
        if self._made is None:
            self._made = start_attributes(self._record) | end_attributes(self._record)
        return self._made

    def __getitem__(self, key: str) -> Any:
        return self._all()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return repr(self._all())
