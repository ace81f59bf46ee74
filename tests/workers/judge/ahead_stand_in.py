"""Imported by a sandbox, makes its CPU a device that says it works ahead of the host.

What a candidate submits without waiting for it is a function that it appends to ``sys.submitted``. It is run when
somebody waits: for a mark, what came before it.
"""

import sys

from workers.devices.cpu import HostDevice
from workers.judge import judge

sys.submitted = []


class AheadDevice(HostDevice):
    runs_ahead = True
    is_broken = False

    def mark(self):
        count = len(sys.submitted)

        def wait():
            nonlocal count
            while count:
                count -= 1
                try:
                    sys.submitted.pop(0)()
                except BaseException:
                    AheadDevice.is_broken = True
                    raise

        return wait

    def is_healthy(self):
        return not self.is_broken


judge._open_device = lambda _: AheadDevice()
