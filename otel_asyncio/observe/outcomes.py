"""How a task ended, by the exception that left it."""

from __future__ import annotations

from otel_asyncio.observe.records import Outcome
from otel_asyncio.observe.scopes import comes_from_scope

_EXITS = (SystemExit, KeyboardInterrupt, GeneratorExit)


def outcome_of(error: BaseException) -> Outcome:
    """What an exception makes of a task: an exit, the end of a deadline, or an error."""
    if isinstance(error, _EXITS):
        return Outcome.EXIT
    return Outcome.TIMEOUT if comes_from_scope(error) else Outcome.ERROR
