"""Names of the contract that are read here before anything emits them: each moves to `emit.names` with its feature."""

from __future__ import annotations

_CANCEL = "asyncio.cancel"

BLOCK_VICTIMS = "asyncio.block.victims"
CANCEL_ORIGIN = f"{_CANCEL}.origin"
CANCEL_OUTCOME = f"{_CANCEL}.outcome"
CANCEL_EXPECTED = f"{_CANCEL}.expected"
CANCEL_BY_TASK = f"{_CANCEL}.by.task"
CANCEL_BY_FILE = f"{_CANCEL}.by.file"
CANCEL_BY_LINE = f"{_CANCEL}.by.line"
CANCEL_BY_FUNCTION = f"{_CANCEL}.by.function"
CANCEL_AT_FILE = f"{_CANCEL}.at.file"
CANCEL_AT_LINE = f"{_CANCEL}.at.line"
TIMEOUT_DELAY = "asyncio.timeout.delay"
TIMEOUT_OUTCOME = "asyncio.timeout.outcome"
EXECUTOR_QUEUED_TIME = "asyncio.executor.queued_time"
EXECUTOR_RUN_TIME = "asyncio.executor.run_time"
STUCK_SINCE = "asyncio.stuck.since"
DEADLOCK_CYCLE = "asyncio.deadlock.cycle"
GROWTH_LIVE = "asyncio.growth.live"
