"""Inputs of workloads that are made, not recorded."""
