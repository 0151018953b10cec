"""Names of the contract that are read here before anything emits them: each moves to `emit.names` with its feature."""

from __future__ import annotations

BLOCK_VICTIMS = "asyncio.block.victims"
EXECUTOR_QUEUED_TIME = "asyncio.executor.queued_time"
EXECUTOR_RUN_TIME = "asyncio.executor.run_time"
DEADLOCK_CYCLE = "asyncio.deadlock.cycle"
