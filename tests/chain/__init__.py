"""The whole way, with the real components: program, collector, store, Prometheus, Alertmanager, webhook.

Not collected by a plain `pytest tests`: `pytest tests/chain`, or the stage `chain` of scripts/test.py.
"""
