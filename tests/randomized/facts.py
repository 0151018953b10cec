"""What a program says of one of its coroutines."""

from __future__ import annotations

NO_TASK = -1


class Facts:
    """One coroutine of the program: its name in the history, and what its task did according to the script."""

    def __init__(self, label: str, creator: Facts | None = None) -> None:
        self.label = label
        self.creator = creator
        self.created_turn = NO_TASK
        self.name: str | None = None
        self.outcome = "pending"
        self.created = self.ended = self.suspended = 0
        self.busy = self.scheduled = self.steps = self.max_step = 0
        self.first_step: int | None = None

    def spun(self, nanoseconds: int, turn: int) -> None:
        """Busy time is also that of whoever is starting this task eagerly, in the middle of a step of their own.

        What was awaited without becoming a task is part of its creator.
        """
        facts: Facts | None = self
        while facts is not None:
            facts.busy += nanoseconds
            facts = facts.creator if facts.created_turn in (turn, NO_TASK) else None
