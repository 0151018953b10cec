"""Saved spans as a page to read: what went wrong first, then the traces, then the totals.

Reads OTLP JSON lines, whoever wrote them, and knows the rest of the package by its names only.
"""
