"""The composition root: the only module that knows both asyncio and OpenTelemetry."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TextIO

from opentelemetry.instrumentation.environment_variables import OTEL_PYTHON_DISABLED_INSTRUMENTATIONS
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]

from otel_asyncio.emit.blocks import Blocks
from otel_asyncio.emit.intervals import Intervals
from otel_asyncio.emit.metrics import metrics_of
from otel_asyncio.emit.problems import ProblemReporter, Rate
from otel_asyncio.emit.sink import SpanSink
from otel_asyncio.emit.stuck import StuckSpans
from otel_asyncio.emit.tracing import Tracing
from otel_asyncio.observe import dump
from otel_asyncio.observe.awaits import Waits
from otel_asyncio.observe.cancellation import CancelDetail, is_told_otherwise
from otel_asyncio.observe.clock import SYSTEM_CLOCK, Clock
from otel_asyncio.observe.counters import Counters
from otel_asyncio.observe.deadlines import ends_a_wait_for
from otel_asyncio.observe.flavour import FLAVOUR, reason
from otel_asyncio.observe.growth import Growing
from otel_asyncio.observe.hanging import Hanging
from otel_asyncio.observe.hotpath import make_factory
from otel_asyncio.observe.install import install_on_classes, install_on_loop
from otel_asyncio.observe.loops import nothing
from otel_asyncio.observe.observation import Observation
from otel_asyncio.observe.records import NEVER, Limits, nanoseconds
from otel_asyncio.observe.rehearsal import Expense
from otel_asyncio.observe.tasks import hide_own_frames, make_foreign, make_task
from otel_asyncio.observe.unawaited import Unawaited
from otel_asyncio.observe.watching import Watching
from otel_asyncio.policy import Policy
from otel_asyncio.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from otel_asyncio.observe.rehearsal import Scene

logger = logging.getLogger("otel_asyncio")


def wire(
    settings: Settings,
    tracer_provider: TracerProvider | None,
    meter_provider: MeterProvider | None,
    clock: Clock,
    *,
    process_wide: bool,
) -> tuple[Observation, Callable[[], None]]:
    """An observation whose facts become spans of this provider, and the way to take it apart again."""
    counters = Counters()
    tracing = Tracing(
        tracer_provider,
        clock=clock,
        request_split=settings.request_split,
        request_links=settings.root_tasks == "all",
    )
    rate = Rate(settings.problem_rate, clock.monotonic_ns)
    reporter = ProblemReporter(tracing, counters, rate, log=settings.problem_log)
    sink = SpanSink(tracing, Policy(settings), reporter, counters)
    metrics = metrics_of(meter_provider)
    patience = nanoseconds(settings.stuck_after)
    limits = Limits(
        nanoseconds(settings.await_threshold),
        nanoseconds(settings.block_threshold),
        NEVER if patience >= NEVER else patience // 2,
    )
    detail = CancelDetail(settings.stack_depth, limits.wait, settings.capture_messages)
    observation = Observation(
        sink, clock, counters, process_wide=process_wide, limits=limits, is_metered=metrics.is_read, detail=detail
    )
    if patience < NEVER:
        observation.hanging = Hanging(
            StuckSpans(Intervals(tracing), reporter, sink.open_span),
            patience=patience,
            idle=settings.idle_targets,
            depth=settings.stack_depth,
        )
        observation.growing = Growing(patience=3 * patience, idle=settings.idle_targets)
    if min(limits.wait, patience) < NEVER:
        observation.waits = Waits(
            sink,
            observation.locks,
            settings.max_awaits_per_span,
            settings.stack_depth,
            least=limits.wait,
            history=None if observation.hanging is None else observation.hanging.history,
        )
        observation.waits.is_told_otherwise = lambda record: is_told_otherwise(record) or ends_a_wait_for(record)
    observation.unawaited = Unawaited(observation, tracking=settings.origin_tracking)
    tracing.running = observation.running_record
    if limits.step < NEVER:
        observation.watching = Watching(
            Blocks(Intervals(tracing), reporter, sink.innermost, sink.open_span, clock),
            limit=limits.step,
            patience=max(patience, limits.step),
            depth=settings.stack_depth,
        )
        observation.may_collect = observation.watching.is_collecting
        atexit.register(observation.watching.drain)
    try:
        tracing.resolve()  # now, where there is a provider: to make a tracer leaves traces (a warnings filter, for one)
    except Exception as error:  # noqa: BLE001 - the border of the package
        observation.switch_off_creation(error)
    atexit.register(observation.drain)
    dump.known.add(observation)
    stop_listening = nothing if settings.dump_signal is None else dump.when_signalled(settings.dump_signal)
    expense = Expense(counters, clock, _scenes)

    def estimate() -> None:
        observation.probe_loops()
        expense.update()

    stop_counting = metrics.add(counters, settings.metric_functions, estimate)

    def unwire() -> None:
        stop_listening()
        observation.waits = None
        dump.known.discard(observation)
        atexit.unregister(observation.drain)
        for looking in (observation.hanging, observation.growing):
            if looking is not None:
                looking.stop()
        if observation.watching is not None:
            atexit.unregister(observation.watching.drain)
            observation.watching.stop()
        observation.drain()
        tracing.close()
        stop_counting()

    return observation, unwire


def _scenes() -> list[Scene]:
    """What the hooks are rehearsed with, when somebody collects: it takes the SDK, which nobody else here imports."""
    from otel_asyncio.emit.scenes import scenes  # noqa: PLC0415

    return scenes(Policy(Settings()))


class AsyncioInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Traces every asyncio task of the process: all loops, made before or after, in every thread, uvloop's too.

    A singleton, like every instrumentor of OpenTelemetry; the entry point `otel_asyncio` makes
    `opentelemetry-instrument` use it. Does not wrap coroutines or start a thread, and touches no signal but the one
    that the setting `dump_signal` names.
    """

    _undo: Callable[[], None] | None = None
    observation: Observation | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """Nothing beyond the standard library is instrumented."""
        return ()

    def instrument(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        settings: Settings | None = None,
        **kwargs: Any,
    ) -> None:
        """Start tracing. A second call while instrumented is refused with a warning, as in all instrumentors.

        Args:
            tracer_provider: where the spans go; default: the global provider, also one that is set later.
            meter_provider: where the metrics go; default: the global provider.
            settings: what is recorded; default: the environment's, `Settings.from_env()`.
        """
        super().instrument(tracer_provider=tracer_provider, meter_provider=meter_provider, settings=settings, **kwargs)

    def uninstrument(self, **kwargs: Any) -> None:
        """Stop tracing: puts back every attribute that is still ours. Tasks that run go on, unobserved."""
        super().uninstrument(**kwargs)

    def _instrument(self, **kwargs: Any) -> None:
        settings = kwargs.get("settings") or Settings.from_env()
        clock = kwargs.get("clock") or SYSTEM_CLOCK
        providers = kwargs.get("tracer_provider"), kwargs.get("meter_provider")
        self.observation, unwire = wire(settings, *providers, clock, process_wide=True)
        uninstall = install_on_classes(self.observation)
        logger.debug("otel_asyncio: traces with the %s step hook%s", FLAVOUR, f" ({reason})" if reason else "")
        _mention_contrib()

        def undo() -> None:
            uninstall()
            unwire()

        self._undo = undo

    def _uninstrument(self, **kwargs: Any) -> None:
        if self._undo is not None:
            self._undo()
        self._undo = self.observation = None


def task_factory(
    inner: Callable[..., Any] | None = None,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    settings: Settings | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Callable[..., Any]:
    """A factory for `loop.set_task_factory`: alone a complete installation on that loop.

    The loop is hooked when the factory makes its first task and unhooked when the loop closes. To stop earlier, set
    another factory (or None): tasks made after that are not recorded.

    Args:
        inner: the factory to make the tasks with, such as `asyncio.eager_task_factory`; default: asyncio's own way.
            A foreign factory gets exactly the arguments that asyncio would give it.
        tracer_provider: where the spans go; default: the global provider, also one that is set later.
        meter_provider: where the metrics go; default: the global provider.
        settings: what is recorded; default: the environment's, `Settings.from_env()`.
        clock: where time comes from; for tests.
    """
    settings = settings or Settings.from_env()
    observation, _ = wire(settings, tracer_provider, meter_provider, clock, process_wide=False)

    def construct(coro: Any, *, loop: Any, **kwargs: Any) -> Any:
        state = install_on_loop(observation, loop)
        if state.expected is not None:  # inside another way in of ours, which has the record ready
            return asyncio.tasks.Task(coro, loop=loop, **kwargs)
        try:
            return make_task(state, loop, coro, **kwargs)
        except BaseException as error:
            hide_own_frames(error, keep=0)
            raise

    if inner is None:
        return make_factory(observation, construct)
    if inner is getattr(asyncio, "eager_task_factory", None):
        # asyncio's own product, with our constructor: anyio recognises it by its code and then starts lazily.
        return asyncio.create_eager_task_factory(construct)  # type: ignore[attr-defined,no-any-return,unused-ignore]

    def composed(loop: Any, coro: Any, **kwargs: Any) -> Any:
        state = install_on_loop(observation, loop)
        return make_foreign(state, inner, coro, kwargs.get("context"), loop, coro, **kwargs)

    return composed


def dump_tasks(file: TextIO | None = None) -> None:
    """Print the tree of live tasks of every observed loop: who awaits whom, where and since when, and its time so far.

    Safe from any thread, also while a loop is blocked: it takes no lock and waits for nobody.

    Args:
        file: what to write to; default: `sys.stderr`.
    """
    (sys.stderr if file is None else file).write(dump.text_of_tasks())


def _mention_contrib() -> None:
    """Say once that contrib's instrumentation of asyncio is on as well: its spans come on top of ours."""
    disabled = os.environ.get(OTEL_PYTHON_DISABLED_INSTRUMENTATIONS, "").split(",")
    if "asyncio" in map(str.strip, disabled) or find_spec("opentelemetry.instrumentation.asyncio") is None:
        return
    logger.info(
        "opentelemetry-instrumentation-asyncio is installed too. Its spans come on top of these; names "
        "are resolved behind its wrapper. To switch it off: OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=asyncio"
    )
