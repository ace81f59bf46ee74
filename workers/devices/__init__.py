"""Devices that candidates run on, CPU and CUDA, and the environment that a measurement is recorded with."""
