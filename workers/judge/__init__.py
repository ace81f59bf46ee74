"""Right or wrong, and how fast: what runs inside the sandbox, and the evaluator that talks to it."""
