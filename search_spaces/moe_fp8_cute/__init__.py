"""The FP8 block-scale mixture-of-experts family, written in CuTe DSL."""

from search_spaces.moe_fp8_cute.space import FAMILY

__all__ = ["FAMILY"]
