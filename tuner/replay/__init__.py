"""Recordings of sweeps, and sweeps that are answered from a recording instead of hardware."""
