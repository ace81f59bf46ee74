"""What the launcher needs besides the kernel. Files of a folder belong to the Solution and import each other."""

import math

import triton

OPTIONS = ("num_warps", "num_stages")


def grid(n, heads, config):
    """Programs of a launch: blocks of queries and heads, in the order that the config asks for."""
    blocks = triton.cdiv(n, config["BLOCK_M"])
    return (heads, blocks) if config["heads_first"] else (blocks, heads)


def exponent_scale(d):
    """The scale of scores, for powers of two instead of e."""
    return d**-0.5 * math.log2(math.e)


def as_listed(config):
    """The entries of ``configs`` as keyword arguments of a launch: blocks in capitals, and Triton's options."""
    return {name: value for name, value in config.items() if name.isupper() or name in OPTIONS}
