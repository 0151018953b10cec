"""Attributes set and taken back: what is undone is only what is still ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def is_stock(function: Any, name: str) -> bool:
    """Whether a function of the standard library still does its own work, of which it uses this name.

    ddtrace wraps a function by exchanging the code in it, so that it stays the same object.
    """
    return name in function.__code__.co_names


def unbound(owner: Any, name: str) -> Callable[..., Any]:
    """A method as a function of the object: the class's, or what somebody else has put on this very object."""
    before = vars(owner).get(name)
    if before is None or getattr(before, "__module__", "").startswith("otel_asyncio."):
        return getattr(type(owner), name)  # type: ignore[no-any-return]
    return lambda _, *args, **kwargs: before(*args, **kwargs)


def replace(owner: Any, name: str, ours: Any) -> Callable[[], None]:
    """Set an attribute; what is returned puts back what was there, if what is there is still ours."""
    before = vars(owner).get(name, replace)
    setattr(owner, name, ours)

    def undo() -> None:
        if vars(owner).get(name) is not ours:
            return
        if before is replace:
            delattr(owner, name)
        else:
            setattr(owner, name, before)

    return undo


_shared: dict[tuple[int, str], tuple[int, Callable[[], None]]] = {}


def replace_shared(owner: Any, name: str, make: Callable[[Any], Any]) -> Callable[[], None]:
    """As `replace`, for what all observations of a process share: put there by the first, taken away by the last."""
    key = id(owner), name
    count, undo = _shared.get(key) or (0, None)
    if undo is None:
        undo = replace(owner, name, make(getattr(owner, name)))
    _shared[key] = count + 1, undo

    def give_up() -> None:
        count, undo = _shared.pop(key)
        if count > 1:
            _shared[key] = count - 1, undo
        else:
            undo()

    return give_up


def undo_all(undos: list[Callable[[], Any]]) -> None:
    """Undo in the reverse order."""
    while undos:
        undos.pop()()
