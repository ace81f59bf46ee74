"""What the emulator refuses, and what it finds."""

from __future__ import annotations


class EmulatorError(Exception):
    """Root of what a run can end with."""


class UnknownInstructionError(EmulatorError):
    """The emulator has no rule for an instruction: nothing is known about the kernel."""


class DeadlockError(EmulatorError):
    """No warp can go on and nothing is on its way."""


class FaultError(EmulatorError):
    """Something that corrupts data, hangs, or is not allowed on the device."""


class Blocked(Exception):  # noqa: N818 - not an error: the warp waits
    """The warp cannot go on now; the same instruction is tried again later."""
