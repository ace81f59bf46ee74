"""The compiled kernel of each config; imports no torch, so that the compile step starts quickly."""

from functools import cache

from .kernels import make_solve


@cache
def _solve(items):
    c = dict(items)
    micro_rows, micro_cols = (int(n) for n in c["micro_tile"].split("x"))
    return make_solve(
        c["row_tile"],
        c["col_tile"],
        c["k_block"],
        micro_rows,
        micro_cols,
        c["decode"] == "bits",
        c["dequantise"] == "expert",
        c["gather"] == "first",
        c["combine"] == "scatter",
    )


def solver(config):
    """The kernel of a config: from memory, else from Numba's cache on disk, else compiled now."""
    return _solve(tuple(sorted((k, v) for k, v in config.items() if k not in ("layout", "threads"))))
