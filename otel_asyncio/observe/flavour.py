"""Which flavour of the hot path runs: the compiled one where it was built, unless it is switched off, or Python."""

from __future__ import annotations

import importlib
import os
from typing import Any

COMPILED = "OTEL_ASYNCIO_COMPILED"
"""Environment: `0` runs Python, also where the compiled flavour is there."""

_EXTENSION = "otel_asyncio.observe._compiled"
_INTERFACE = 9  # what Python and C expect of each other; compiled/compiled.h has it too


def _load() -> tuple[Any, str]:
    """The extension, or None and why there is none."""
    if os.environ.get(COMPILED) == "0":
        return None, f"{COMPILED} is 0"
    try:
        found = importlib.import_module(_EXTENSION)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it: it can be done without
        return None, str(error)
    if found.INTERFACE != _INTERFACE:
        return None, "it was built for another version of this package"
    return found, ""


extension, reason = _load()
"""The compiled extension, or None; then `reason` says why."""

FLAVOUR = "python" if extension is None else "compiled"
"""The hot path that runs: compiled, or the Python that it is the twin of."""
