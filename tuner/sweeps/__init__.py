"""A sweep from its settings to its winners."""
