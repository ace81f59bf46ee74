"""The command line. Commands import what they need when they run, so that ``--help`` stays quick."""

from tuner.cli.app import main

__all__ = ["main"]
