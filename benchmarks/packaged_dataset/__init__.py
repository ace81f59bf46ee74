"""Makes the packaged dataset, and MoE definitions of other sizes for benchmarks and tests."""
