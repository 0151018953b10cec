"""OpenTelemetry tracing for asyncio: who cancelled my task, what did it wait for, which line blocked the loop?

`AsyncioInstrumentor().instrument()` traces every loop of the process; `loop.set_task_factory(task_factory())` one.
"""

from otel_asyncio.instrumentor import AsyncioInstrumentor, task_factory
from otel_asyncio.settings import Settings

__all__ = ["AsyncioInstrumentor", "Settings", "task_factory"]
