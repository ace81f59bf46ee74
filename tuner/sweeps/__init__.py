"""Runs a sweep, from its settings to its winners."""
