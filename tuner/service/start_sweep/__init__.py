"""Starts sweeps for clients of the API and for the pages."""
