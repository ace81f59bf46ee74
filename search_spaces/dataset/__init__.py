"""The packaged dataset: a small flashinfer-trace folder, so that a sweep needs no download.

It holds a reduced DeepSeek MoE definition, one gemm and one rmsnorm, each with workloads, as
``python -m benchmarks.packaged_dataset.make`` writes them.
"""

from pathlib import Path

PATH = Path(__file__).resolve().parent
"""The folder to give to ``flashinfer_bench.data.TraceSet.from_path``."""
