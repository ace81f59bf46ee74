"""What every request passes: tokens, limits, errors, and the fast path."""
