"""The compiled kernels of each config; imports no torch, so that the compile step starts quickly."""

from functools import cache

from .kernels import make_solve
from .products import make_steps


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


@cache
def _steps(bfloat16):
    return make_steps(bfloat16)


def kernels(config):
    """The kernels of a config, a tuple: from memory, else from Numba's cache on disk, else compiled now.

    One kernel where the products are our own loops, the three steps around them where they are BLAS's.
    """
    if config["product"] != "loops":
        return _steps(config["product"] == "blas_bf16")
    return (_solve(tuple(sorted((k, v) for k, v in config.items() if k not in ("layout", "threads", "product")))),)
