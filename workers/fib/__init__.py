"""Everything that depends on flashinfer-bench: its objects, its datasets, and runs of its own command."""
