"""Processes that may be killed: one is forked for each builder and evaluator."""
