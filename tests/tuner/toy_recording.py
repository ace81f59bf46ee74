"""A recording of five configs on two workloads."""

from benchmarks.search_replay.recording import Recording
from search_spaces.parameters import Parameter

RECORDING = Recording(
    name="tiny",
    kernel="copy",
    gpu="some GPU",
    parameters=(Parameter("tile", (8, 16, 32, 64)), Parameter("wide", (False, True))),
    restrictions=(),
    points=((0, 0), (1, 0), (2, 1), (3, 0), (3, 1)),
    time_ms=(4.0, 2.0, None, None, None),
    status=("ok", "ok", "compile", "incorrect", "raced"),
    workloads=("small", "large"),
    workload_ms={"small": (2.0, 1.0, None, 1.5, 9.0), "large": (8.0, 4.0, None, None, None)},
)
