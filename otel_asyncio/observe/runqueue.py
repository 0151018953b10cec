"""How long a thread has waited for a processor, or anybody on the machine: in the kernel's run queue, ready to run.

Linux counts the former, whatever `kernel.sched_schedstats` says (`Documentation/scheduler/sched-stats.rst`), and the
latter unless it was built or started without it (`Documentation/accounting/psi.rst`). Elsewhere, and in a sandbox with
a kernel of its own, nobody can tell.
"""

from __future__ import annotations

import os

_OWN, _ANYBODYS = "/proc/thread-self/schedstat", "/proc/pressure/cpu"

PROCESSORS = os.sysconf("SC_NPROCESSORS_ONLN") if hasattr(os, "sysconf") else 1
"""How many there are for everybody, whatever the process may use."""


def waited(native_id: int | None = None) -> int | None:
    """Nanoseconds since the thread began (the calling one, without an id); None where nobody can tell.

    The kernel adds a wait when it is over. The file is opened for each reading, because one that is kept open is one
    that the program may close.
    """
    try:
        return int(_read(_OWN if native_id is None else f"/proc/self/task/{native_id}/schedstat").split()[1])
    except (OSError, ValueError, IndexError):
        return None


def anybody_waited() -> int | None:
    """For how many nanoseconds anybody has waited for a processor, as a mean over all of them; None: nobody can tell.

    What was waited at one of them counts by its share, so that it may be `PROCESSORS` times as much.
    """
    try:
        some = _read(_ANYBODYS).split(b"\n")[0]
        return int(some.rpartition(b" total=")[2]) * 1_000
    except (OSError, ValueError):
        return None


def _read(path: str) -> bytes:
    file = os.open(path, os.O_RDONLY)
    try:
        return os.read(file, 128)
    finally:
        os.close(file)
