"""What both FP8 block-scale MoE families share: how a definition is read, the op in float32, the proof of the two."""
