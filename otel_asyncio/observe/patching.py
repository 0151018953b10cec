"""Attributes set and taken back: what is undone is only what is still ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


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


def undo_all(undos: list[Callable[[], None]]) -> None:
    """Undo in the reverse order."""
    while undos:
        undos.pop()()
