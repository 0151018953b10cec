"""The whole way, with the real components: program, collector, Jaeger, Prometheus, Alertmanager, webhook.

Not collected by a plain `pytest tests`: `pytest tests/chain`, or the stage `chain` of scripts/test.py.
"""
