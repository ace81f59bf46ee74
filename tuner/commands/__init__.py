"""Commands that are neither a sweep nor a query: bench, compile, doctor."""
