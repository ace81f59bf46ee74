"""Reads the results of sweeps: lookups, status, export, reports."""
