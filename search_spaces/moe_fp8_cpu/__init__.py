"""FP8 block-scale MoE with DeepSeek routing on a CPU, in Numba: the space of a sweep without a GPU."""

from search_spaces.moe_fp8_cpu.space import FAMILY

__all__ = ["FAMILY"]
