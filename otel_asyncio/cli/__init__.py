"""The command `otel-asyncio`: run, view, demo. Thin, over the public functions of the package."""
