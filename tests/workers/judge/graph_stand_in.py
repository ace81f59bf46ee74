"""Imported by a sandbox, makes its CPU a device that says it can capture calls in graphs.

A graph of it is the call itself. While a call is captured ``sys.capturing`` is true, so that candidates of tests can
refuse. If their exception says ``breaks the process``, the failed capture cannot be undone.
"""

import sys

from workers.devices.cpu import HostDevice
from workers.devices.device import CaptureError
from workers.judge import judge


class GraphDevice(HostDevice):
    modes = ("eager", "cuda_graph")
    graph_mode = "cuda_graph"

    def prepare(self, run, mode):
        if mode == "eager":
            return run
        run()
        sys.capturing = True
        try:
            run()
        except Exception as error:
            raise CaptureError(error, is_undone="breaks the process" not in str(error)) from error
        finally:
            sys.capturing = False
        return run


judge._open_device = lambda _: GraphDevice()
