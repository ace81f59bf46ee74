"""What a command is doing, told to whoever watches it."""

from __future__ import annotations


class Steps:
    """Is told what a command does, and shows nothing."""

    def say(self, text: str) -> None:
        """Print a line that stays."""

    def step(self, text: str, limit_s: float | None = None) -> None:
        """Show what is done from now on, and how many seconds it may take at most."""

    def tick(self) -> None:
        """Update the line; to be called about once a second."""
