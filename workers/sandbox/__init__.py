"""Sandboxes: processes that can be killed at any time, one for each builder and evaluator."""
