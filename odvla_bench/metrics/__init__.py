"""Metrics: pure functions on arrays and strings; no file is opened here."""
