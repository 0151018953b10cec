"""`python -m otel_asyncio` is the command `otel-asyncio`."""

import sys

from otel_asyncio.cli.main import main

sys.exit(main())
