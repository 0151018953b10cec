"""What a library reports as left open when the last reference to it goes: a client's session, a pool, a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from otel_asyncio.observe.chain import Frame
from otel_asyncio.observe.code import info_of, of_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otel_asyncio.observe.code import CodeInfo

# What aiohttp, redis, aiokafka, aiomysql and aiopg say to the handler, each with the object beside the message.
_MESSAGE = "Unclosed "
_BESIDE = ("message", "source_traceback")


class Unclosed(NamedTuple):
    """Something that was not closed."""

    message: str
    """The library's own."""

    code: CodeInfo
    qualname: str
    """The class of it."""

    made_at: Frame | None
    """The line that made it, if the library noted it: aiohttp does in debug mode."""


def unclosed_in(context: Mapping[str, Any]) -> Unclosed | None:
    """What the exception handler is told to be unclosed, if that is what it is told."""
    message = context.get("message")
    if not isinstance(message, str) or not message.startswith(_MESSAGE):
        return None
    kind = next((type(value) for key, value in context.items() if key not in _BESIDE), None)
    if kind is None:
        return None
    made = getattr(kind.__init__, "__code__", None)
    code = of_file("")._replace(file=None, module=kind.__module__) if made is None else info_of(made, kind.__module__)
    return Unclosed(message, code, kind.__qualname__, _made_at(context.get("source_traceback")))


def _made_at(stack: Any) -> Frame | None:
    """The innermost line of a stack that `traceback.extract_stack` took in the constructor's caller."""
    if not stack:
        return None
    made = stack[-1]
    return Frame(of_file(made.filename), made.lineno, made.name)
