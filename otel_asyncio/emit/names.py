"""Every name the package emits, once: the README's tables and other people's queries depend on them."""

from __future__ import annotations

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

# Stable names of OpenTelemetry's semantic conventions.
CODE_FUNCTION_NAME = "code.function.name"
CODE_FILE_PATH = "code.file.path"
CODE_LINE_NUMBER = "code.line.number"
CODE_STACKTRACE = "code.stacktrace"
ERROR_TYPE = "error.type"
THREAD_ID = "thread.id"
THREAD_NAME = "thread.name"
EXCEPTION_TYPE = "exception.type"
EXCEPTION_MESSAGE = "exception.message"
EXCEPTION_STACKTRACE = "exception.stacktrace"

TASK_NAME = "asyncio.task.name"
TASK_ID = "asyncio.task.id"
TASK_KIND = "asyncio.task.kind"
TASK_OUTCOME = "asyncio.task.outcome"
TASK_CREATED_FILE = "asyncio.task.created.file"
TASK_CREATED_LINE = "asyncio.task.created.line"
TASK_CREATED_FUNCTION = "asyncio.task.created.function"
TASK_BUSY_TIME = "asyncio.task.busy_time"
TASK_SCHEDULED_TIME = "asyncio.task.scheduled_time"
TASK_IDLE_TIME = "asyncio.task.idle_time"
TASK_STEPS = "asyncio.task.steps"
TASK_MAX_STEP_TIME = "asyncio.task.max_step_time"
TASK_MAX_IDLE_TIME = "asyncio.task.max_idle_time"
TASK_START_DELAY = "asyncio.task.start_delay"

ASYNCGEN_OPEN_TIME = "asyncio.asyncgen.open_time"
GROWTH_LIVE = "asyncio.growth.live"
GROWTH_RATE = "asyncio.growth.rate"
LOOP_CLOSED_FILE = "asyncio.loop.closed.file"
LOOP_CLOSED_LINE = "asyncio.loop.closed.line"
LOOP_CLOSED_AGE = "asyncio.loop.closed.age"

AWAIT_TARGET = "asyncio.await.target"
AWAIT_IDLE_TIME = "asyncio.await.idle_time"
AWAIT_SCHEDULED_TIME = "asyncio.await.scheduled_time"
AWAIT_OMITTED = "asyncio.await.omitted"
AWAIT_OMITTED_TIME = "asyncio.await.omitted_time"

RESOURCE_TYPE = "asyncio.resource.type"
RESOURCE_HOLDER_TASK = "asyncio.resource.holder.task"
RESOURCE_HOLDER_FILE = "asyncio.resource.holder.file"
RESOURCE_HOLDER_LINE = "asyncio.resource.holder.line"
RESOURCE_HELD_TIME = "asyncio.resource.holder.held_time"

CANCEL_ORIGIN = "asyncio.cancel.origin"
CANCEL_VIA = "asyncio.cancel.via"
CANCEL_OUTCOME = "asyncio.cancel.outcome"
CANCEL_EXPECTED = "asyncio.cancel.expected"
CANCEL_REQUESTS = "asyncio.cancel.requests"
CANCEL_LATENCY = "asyncio.cancel.latency"
CANCEL_MESSAGE = "asyncio.cancel.message"
CANCEL_BY_TASK = "asyncio.cancel.by.task"
CANCEL_BY_FILE = "asyncio.cancel.by.file"
CANCEL_BY_LINE = "asyncio.cancel.by.line"
CANCEL_BY_FUNCTION = "asyncio.cancel.by.function"
CANCEL_AT_FILE = "asyncio.cancel.at.file"
CANCEL_AT_LINE = "asyncio.cancel.at.line"
CANCEL_SUPPRESSED_FILE = "asyncio.cancel.suppressed.file"
CANCEL_SUPPRESSED_LINE = "asyncio.cancel.suppressed.line"
CANCEL_OMITTED = "asyncio.cancel.omitted"

TIMEOUT_API = "asyncio.timeout.api"
TIMEOUT_DELAY = "asyncio.timeout.delay"
TIMEOUT_OVERRUN = "asyncio.timeout.overrun"
TIMEOUT_OUTCOME = "asyncio.timeout.outcome"
TIMEOUT_OMITTED = "asyncio.timeout.omitted"

SHUTDOWN_CANCELLED = "asyncio.shutdown.cancelled"
SHUTDOWN_SLOWEST = "asyncio.shutdown.slowest"
SHUTDOWN_SLOWEST_TIME = "asyncio.shutdown.slowest_time"

EXECUTOR_KIND = "asyncio.executor.kind"
EXECUTOR_QUEUED_TIME = "asyncio.executor.queued_time"
EXECUTOR_RUN_TIME = "asyncio.executor.run_time"

BLOCK_ACCURACY = "asyncio.block.accuracy"
BLOCK_GC_TIME = "asyncio.block.gc_time"
BLOCK_SAMPLES = "asyncio.block.samples"
BLOCK_VICTIMS = "asyncio.block.victims"

STUCK_COUNT = "asyncio.stuck.count"
STUCK_REPORT = "asyncio.stuck.report"
STUCK_SINCE = "asyncio.stuck.since"

DEADLOCK_CYCLE = "asyncio.deadlock.cycle"

EVENTLOOP_ID = "asyncio.eventloop.id"
EVENTLOOP_IMPLEMENTATION = "asyncio.eventloop.implementation"

LINK_TYPE = "asyncio.link.type"
LINK_AWAITED = "awaited"
LINK_CALLER = "caller"
LINK_CANCELLER = "canceller"
LINK_HOLDER = "holder"
LINK_SIBLING_FAILURE = "sibling_failure"
LINK_SPAWNER = "spawner"
LINK_TASK = "task"
LINK_VICTIM = "victim"

PROBLEM = "asyncio.problem"


def task_span(qualname: str) -> str:
    """The name of a task's span."""
    return f"task {qualname}"


def await_span(target: str) -> str:
    """The name of an await's span."""
    return f"await {target}"


def cancel_span(qualname: str) -> str:
    """The name of a cancellation's span."""
    return f"cancel {qualname}"


def timeout_span(function: str) -> str:
    """The name of the span of a scope that expired."""
    return f"timeout {function}"


SHUTDOWN_SPAN = "asyncio.shutdown"


def executor_span(function: str) -> str:
    """The name of the span of work that was handed to an executor."""
    return f"executor {function}"


def block_span(function: str) -> str:
    """The name of the span of a loop that was held."""
    return f"block {function}"


def problem_span(problem: str) -> str:
    """The name of a span made for a problem that has none of its own."""
    return f"asyncio.{problem}"


# Metrics, with what tells their series apart.
TASK_STARTED = "asyncio.task.started"
TASK_ACTIVE = "asyncio.task.active"
TASK_DURATION = "asyncio.task.duration"
TASK_CANCELLATIONS = "asyncio.task.cancellations"
TIMEOUTS = "asyncio.timeouts"
PROBLEMS = "asyncio.problems"
EVENTLOOP_DELAY = "asyncio.eventloop.delay"
EVENTLOOP_UTILIZATION = "asyncio.eventloop.utilization"
EVENTLOOP_BLOCK_DURATION = "asyncio.eventloop.block.duration"
EVENTLOOP_TIME = "asyncio.eventloop.time"
INSTRUMENTATION_DROPPED = "asyncio.instrumentation.dropped"
INSTRUMENTATION_TIME = "asyncio.instrumentation.time"

EVENTLOOP_STATE = "asyncio.eventloop.state"
EVENTLOOP_MEASUREMENT = "asyncio.eventloop.measurement"
ITEM = "asyncio.item"
