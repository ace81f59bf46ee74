"""Triton kernels compiled by builders, without a GPU, and found by the evaluator's first call."""
