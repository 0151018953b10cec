"""The span that is current in a context, read and set without the detours of the general API.

OpenTelemetry keeps its context in one context variable. Where that is so, it is used directly (a read costs 0.1 µs
instead of 0.7); any other runtime context goes through the public functions.
"""

from __future__ import annotations

import contextvars
from functools import partial
from typing import TYPE_CHECKING, Any

from opentelemetry import context as context_api
from opentelemetry.context.context import Context
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext
from opentelemetry.instrumentation import utils
from opentelemetry.trace.propagation import _SPAN_KEY

from otel_asyncio.observe.flavour import extension

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.trace import Span

SPAN_KEY = _SPAN_KEY
_SUPPRESS = context_api._SUPPRESS_INSTRUMENTATION_KEY
_SUPPRESS_PLAIN = getattr(utils, "_SUPPRESS_INSTRUMENTATION_KEY_PLAIN", "suppress_instrumentation")
_NOTHING: Mapping[str, Any] = Context()


def _find_variable() -> contextvars.ContextVar[Any] | None:
    runtime = getattr(context_api, "_RUNTIME_CONTEXT", None)
    variable = getattr(runtime, "_current_context", None)
    exact = type(runtime) is ContextVarsRuntimeContext and isinstance(variable, contextvars.ContextVar)
    return variable if exact else None


VARIABLE = _find_variable()
current_telemetry: Callable[[], Mapping[str, Any]] = context_api.get_current if VARIABLE is None else VARIABLE.get
_make_current: Callable[[Context], object] = context_api.attach if VARIABLE is None else VARIABLE.set
_copy_context = contextvars.copy_context
_is_dict = issubclass(Context, dict)
IS_KNOWN = VARIABLE is not None and _is_dict
"""Whether OpenTelemetry's context is a dict in a context variable."""
_put: Callable[[Any, str, Any], object] = dict.setdefault  # the class itself lets nobody set anything


def telemetry_context(context: contextvars.Context) -> Mapping[str, Any]:
    """OpenTelemetry's context inside `context`."""
    if VARIABLE is not None:
        return context.get(VARIABLE, _NOTHING)
    # In a copy, because a context that somebody is inside of cannot be entered again.
    return context.copy().run(context_api.get_current)


def is_suppressed(telemetry: Mapping[str, Any]) -> bool:
    """Whether `suppress_instrumentation()` is in force there."""
    return bool(telemetry.get(_SUPPRESS) or telemetry.get(_SUPPRESS_PLAIN))


def context_with(span: Span, telemetry: Mapping[str, Any]) -> contextvars.Context:
    """A copy of the current context in which `span` is current on top of `telemetry`, to make a task in.

    No token is taken, so none is held across a suspension.
    """
    context = _copy_context()
    if _is_dict and len(telemetry) == (SPAN_KEY in telemetry):
        above = Context()
        _put(above, SPAN_KEY, span)
    else:
        above = Context({**telemetry, SPAN_KEY: span})
    context.run(_make_current, above)
    return context


if not TYPE_CHECKING and extension is not None and IS_KNOWN:
    context_with = partial(extension.context_with, VARIABLE, Context, SPAN_KEY)


def make_current_in(context: contextvars.Context, telemetry: Context) -> None:
    """Set OpenTelemetry's context inside one that nobody is in, and that is nobody else's."""
    context.run(_make_current, telemetry)
