"""Judges variants, right or wrong and how fast: the code inside the sandbox, and the evaluator that talks to it."""
