"""Sweeps on real GPUs: what docs/results/gpu-sweep.md says is measured here. See README.md."""
