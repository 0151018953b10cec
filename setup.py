"""The compiled step hook. It is optional: where it cannot be built, the Python that it is the twin of runs.

With `OTEL_ASYNCIO_COMPILED=0` it is not built at all, and the wheel is one for every Python.
"""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

from setuptools import Extension, setup

WANTED = os.environ.get("OTEL_ASYNCIO_COMPILED") != "0"
# It relies on the GIL: a free-threaded Python runs the Python flavour.
POSSIBLE = not sysconfig.get_config_var("Py_GIL_DISABLED")

EXTENSION = Extension(
    "otel_asyncio.observe._compiled",
    sorted(path.as_posix() for path in Path("compiled").glob("*.c")),
    depends=["compiled/compiled.h"],
    optional=True,
)

setup(ext_modules=[EXTENSION] if WANTED and POSSIBLE else [])
