"""Recordings: sweeps answered from measurements made before."""
