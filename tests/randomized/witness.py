"""A second opinion: when each task ran and waited, by means that have nothing to do with the package's."""

from __future__ import annotations

import asyncio
from typing import Any

from randomized.facts import Facts
from randomized.world import ScriptedLoop


class _TimedHandle(asyncio.Handle):
    """A handle that knows since when it is ready, and tells the loop when it runs."""

    __slots__ = ("ready",)

    def _run(self) -> None:
        loop: Any = self._loop  # type: ignore[attr-defined]
        task = getattr(self._callback, "__self__", None)  # type: ignore[attr-defined]
        started = loop.now()
        loop.turn += 1
        try:
            super()._run()  # type: ignore[misc]
        finally:
            if isinstance(task, asyncio.Task) and _is_step(self._callback):  # type: ignore[attr-defined]
                loop.stepped(task, self.ready, started)
            task = self = None  # type: ignore[assignment] # a traceback leads here: no way on to the task


def _outcome(task: asyncio.Task[Any]) -> str:
    error = None if task.cancelled() else task._exception  # exception() would mark it as retrieved
    if isinstance(error, (SystemExit, KeyboardInterrupt)):
        return "exit"
    return "cancellation" if task.cancelled() else "success" if error is None else "error"


def _is_step(callback: Any) -> bool:
    return type(callback).__name__ == "TaskStepMethWrapper" or getattr(callback, "__name__", "") == "task_wakeup"


class WitnessLoop(ScriptedLoop):
    """Takes down when each step became ready and ran.

    Its handles do it, where the package puts another callback into asyncio's own.
    """

    turn = 0

    def _call_soon(self, callback: Any, args: Any, context: Any) -> _TimedHandle:
        handle = _TimedHandle(callback, args, self, context)
        handle.ready = self.now()
        self._ready.append(handle)  # type: ignore[attr-defined]
        return handle

    def about_to_make(self, facts: Facts) -> None:
        facts.created = facts.suspended = self.now()
        facts.created_turn = self.turn

    def made(self, task: Any, facts: Facts) -> None:
        task._facts = facts
        facts.suspended = self.now()
        if self.is_running() and self.get_task_factory() is not None:  # an eager one: there is no other here
            facts.first_step = facts.created
            self._count_step(facts, facts.created)
        if task.done():
            self._note_end(task, facts)

    def exited(self, facts: Facts) -> None:
        """An exit came out of the first step of an eager task, which nobody gets to see."""
        facts.first_step, facts.outcome, facts.ended = facts.created, "exit", self.now()
        self._count_step(facts, facts.created)

    def stepped(self, task: Any, ready: int, started: int) -> None:
        facts: Facts = task._facts
        if facts.first_step is None:
            facts.first_step = started
        facts.scheduled += started - max(ready, facts.suspended)
        facts.suspended = self.now()
        self._count_step(facts, started)
        if task.done():
            self._note_end(task, facts)

    def _count_step(self, facts: Facts, started: int) -> None:
        facts.steps += 1
        facts.max_step = max(facts.max_step, self.now() - started)

    def _note_end(self, task: Any, facts: Facts) -> None:
        facts.name, facts.outcome, facts.ended = task.get_name(), _outcome(task), self.now()

    def close(self) -> None:
        """What is pending now stays so; what was ready has waited for the loop until here."""
        waiting = {handle._callback.__self__: handle for handle in self._ready if _is_step(handle._callback)}  # type: ignore[attr-defined]
        for task, facts in self.world.alive():
            if not task.done():
                facts.name, facts.ended = task.get_name(), self.now()
                if task in waiting:
                    facts.scheduled += self.now() - max(waiting[task].ready, facts.suspended)
        super().close()
