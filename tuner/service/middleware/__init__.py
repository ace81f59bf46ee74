"""What every request passes through: limits, tokens, errors and the fast path."""
