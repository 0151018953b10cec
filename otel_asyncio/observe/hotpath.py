"""The hot path that runs: compiled, or the Python that it is the twin of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_asyncio.observe.flavour import extension
from otel_asyncio.observe.steps import takes_handles_directly

if TYPE_CHECKING or extension is None:
    from otel_asyncio.observe.bursts import make_brief_step
    from otel_asyncio.observe.create import make_create_task, make_factory, make_register
    from otel_asyncio.observe.eager import who_runs
    from otel_asyncio.observe.notices import make_notice, make_set_attribute
    from otel_asyncio.observe.steps import make_call_soon, make_call_soon_of, make_step, make_unrecorded_step
else:
    from otel_asyncio.observe.compiled import (
        make_brief_step,
        make_call_soon,
        make_call_soon_of,
        make_create_task,
        make_factory,
        make_notice,
        make_register,
        make_set_attribute,
        make_step,
        make_unrecorded_step,
        who_runs,
    )

__all__ = [
    "make_brief_step",
    "make_call_soon",
    "make_call_soon_of",
    "make_create_task",
    "make_factory",
    "make_notice",
    "make_register",
    "make_set_attribute",
    "make_step",
    "make_unrecorded_step",
    "takes_handles_directly",
    "who_runs",
]
