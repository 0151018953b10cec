"""How long a thread has waited for a processor: in the kernel's run queue, ready to run.

Linux counts it, whatever `kernel.sched_schedstats` says (`Documentation/scheduler/sched-stats.rst`). Elsewhere, and in
a sandbox with a kernel of its own, nobody can tell.
"""

from __future__ import annotations

import os

_OWN = "/proc/thread-self/schedstat"


def waited(native_id: int | None = None) -> int | None:
    """Nanoseconds since the thread began (the calling one, without an id); None where nobody can tell.

    The kernel adds a wait when it is over. The file is opened for each reading, because one that is kept open is one
    that the program may close.
    """
    try:
        file = os.open(_OWN if native_id is None else f"/proc/self/task/{native_id}/schedstat", os.O_RDONLY)
        try:
            return int(os.read(file, 128).split()[1])
        finally:
            os.close(file)
    except (OSError, ValueError, IndexError):
        return None
