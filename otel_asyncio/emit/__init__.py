"""Facts become OpenTelemetry's spans and metrics. Never imports asyncio."""
