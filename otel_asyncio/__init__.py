"""OpenTelemetry tracing for asyncio: who cancelled my task, what did it wait for, which line blocked the loop?

`AsyncioInstrumentor().instrument()` traces every loop of the process; `loop.set_task_factory(task_factory())` one.
`configure()` sets OpenTelemetry up first, for a program that has not; `render()` shows what a session has recorded.
`dump_tasks()` prints what every task does right now.
"""

from otel_asyncio.configure import Telemetry, configure, render
from otel_asyncio.instrumentor import AsyncioInstrumentor, dump_tasks, task_factory
from otel_asyncio.settings import Settings

__all__ = ["AsyncioInstrumentor", "Settings", "Telemetry", "configure", "dump_tasks", "render", "task_factory"]
