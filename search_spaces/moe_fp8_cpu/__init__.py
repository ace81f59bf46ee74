"""FP8 block-scale MoE with DeepSeek routing on a CPU, in Numba: the space of the embedded default sweep."""

from search_spaces.moe_fp8_cpu.space import FAMILY

__all__ = ["FAMILY"]
