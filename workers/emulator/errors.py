"""What the emulator refuses, and what it finds."""

from __future__ import annotations


class EmulatorError(Exception):
    """Base class of the errors that end an emulated run."""


class UnknownInstructionError(EmulatorError):
    """The emulator has no rule for an instruction: nothing is known about the kernel."""


class DeadlockError(EmulatorError):
    """No warp can proceed and no asynchronous work is pending."""


class FaultError(EmulatorError):
    """The kernel does something that corrupts data, hangs, or is not allowed on the device."""


class Blocked(Exception):  # noqa: N818 - not an error: the warp waits
    """The warp cannot proceed now; the same instruction is tried again later."""
