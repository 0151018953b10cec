"""A chain or a stack as text: file, line and function of each frame; never source lines, never locals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_asyncio.emit import names
from otel_asyncio.emit.attributes import function_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_asyncio.observe.chain import Frame


def stacktrace(frames: Sequence[Frame], omitted: int = 0) -> str:
    """`code.stacktrace` in Python's own form, outermost first, without the source.

    `omitted`: how many frames were left out at the outer end; said in a first line.
    """
    lines = [f"  [{omitted} more]"] if omitted else []
    lines += [f'  File "{frame.code.file}", line {frame.line}, in {frame.qualname}' for frame in frames]
    return "\n".join(lines)


def frame_attributes(frame: Frame | None) -> dict[str, Any]:
    """`code.*` of the line to blame; nothing where there is none."""
    if frame is None:
        return {}
    return {
        names.CODE_FUNCTION_NAME: function_name(frame.code, frame.qualname),
        names.CODE_FILE_PATH: frame.code.file,
        names.CODE_LINE_NUMBER: frame.line,
    }
