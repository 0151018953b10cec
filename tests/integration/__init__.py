"""Spans of real programs in real OTLP receivers: nothing here is a fake of ours."""
