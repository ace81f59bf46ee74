"""Reads Python files: their statements, what they need, and values that follow from their text."""
