"""Sweeps that are started from a page or over HTTP."""
