"""Shared by the FP8 block-scale MoE families: reading a definition, the op in float32, the proof that they agree."""
