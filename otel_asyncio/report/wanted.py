"""Names of the contract that are read here before anything emits them: each moves to `emit.names` with its feature."""

from __future__ import annotations

DEADLOCK_CYCLE = "asyncio.deadlock.cycle"
