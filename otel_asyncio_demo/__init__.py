"""The service of `otel-asyncio demo`: a program like any other, so its lines are told like anybody's."""
