"""The model of moe_fp8_cute against recorded sweeps, and what a search gains by it."""
