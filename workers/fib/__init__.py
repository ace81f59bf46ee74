"""Everything that knows flashinfer-bench: its objects, datasets and its official run."""
