"""FP8 block-scale MoE with DeepSeek routing on a CPU; ``run`` is the entry point.

Importing this module compiles the kernels of every config in ``config.py``, or loads them where ``build.py`` has left
them in ``__pycache__``.

Threads are Python's own: the kernel releases the interpreter lock, so two of them run at once. Numba's threading layers
are not used: they do not survive a fork, and compiling for them takes longer.
"""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch

from .compiled import kernels
from .config import SIZES, TABLE, select
from .fp8 import fp8_table
from .routing import make_plan, route

BLOCK = 128
FP8_VALUES = fp8_table()
_scratch = threading.local()

for _, _config in TABLE:
    kernels(_config)


@lru_cache(maxsize=1)
def _pool(pid, workers):
    """Helper threads of this process; a forked child makes its own, since threads do not survive a fork."""
    return ThreadPoolExecutor(workers, thread_name_prefix="moe")


def in_parallel(threads, task):
    """Run ``task(0) .. task(threads - 1)`` at once; the last one on the calling thread."""
    pending = [_pool(os.getpid(), threads - 1).submit(task, i) for i in range(threads - 1)]
    try:
        task(threads - 1)
    finally:
        for future in pending:
            future.result()


def assign(plan, threads, step):
    """Work items of each thread, int64 [items, 3]: runs of at most ``step`` rows of one expert.

    Largest first, each to the thread with the fewest rows so far; a thread then goes through the experts in order.
    """
    items = [
        (e, start + r, min(step, rows - r))
        for e, (start, rows) in enumerate(zip(plan.starts.tolist(), plan.filled.tolist(), strict=False))
        for r in range(0, rows, step)
    ]
    lists = [[] for _ in range(threads)]
    loads = [0] * threads
    for item in sorted(items, key=lambda i: -i[2]):
        thread = loads.index(min(loads))
        lists[thread].append(item)
        loads[thread] += item[2]
    return [np.array(sorted(found), dtype=np.int64).reshape(-1, 3) for found in lists]


def scratch(config):
    """This thread's buffers for a config: first, hidden, second, decoded1, decoded2 and the gathered row tile.

    Kept between calls: fresh memory costs a page fault every 4 KiB, which a call with one token would notice.
    """
    key = tuple(config[n] for n in ("row_tile", "col_tile", "k_block", "dequantise", "gather"))
    buffers = _scratch.__dict__
    if key not in buffers:
        H, INNER, M = SIZES["hidden_size"], SIZES["intermediate_size"], config["row_tile"]
        tile = (config["col_tile"], config["k_block"])
        once = config["dequantise"] == "expert"
        shapes = [(M, 2 * INNER), (M, INNER), (M, H), (2 * INNER, H) if once else tile, (H, INNER) if once else tile]
        shapes.append((1 if config["gather"] == "first" else M, H))
        buffers[key] = [np.empty(shape, np.float32) for shape in shapes]
    return buffers[key]


def decode_rows(hidden_states, scale, row_token):
    """Inputs in the order of the plan's rows, float32 [R, H]; filling rows hold those of token 0."""
    token = torch.from_numpy(np.maximum(row_token, 0))
    codes = hidden_states.view(torch.uint8)[token].view(torch.float8_e4m3fn)
    blocks = codes.to(torch.float32).view(len(token), scale.shape[0], BLOCK)
    return (blocks * scale[:, token].t().unsqueeze(2)).view(len(token), scale.shape[0] * BLOCK).numpy()


def run(
    routing_logits,
    routing_bias,
    hidden_states,
    hidden_states_scale,
    gemm1_weights,
    gemm1_weights_scale,
    gemm2_weights,
    gemm2_weights_scale,
    local_expert_offset,
    routed_scaling_factor,
    output,
):
    """Fill ``output`` [T, H] bfloat16. Inputs as in the definition, contiguous; none is changed."""
    T, H = output.shape
    if T == 0:
        return
    config = select(T)
    threads = config["threads"]
    chosen = route(routing_logits, routing_bias, int(local_expert_offset), float(routed_scaling_factor), SIZES)
    align = int(config["micro_tile"].split("x")[0])
    plan = make_plan(*chosen, SIZES["num_local_experts"], align, config["layout"])
    x, x_scale = hidden_states.view(torch.uint8).numpy(), hidden_states_scale.numpy()
    w1, s1 = gemm1_weights.view(torch.uint8).numpy(), gemm1_weights_scale.numpy()
    w2, s2 = gemm2_weights.view(torch.uint8).numpy(), gemm2_weights_scale.numpy()
    if config["product"] != "loops":
        by_products(config, plan, x, x_scale, w1, s1, w2, s2, output)
        return
    (solve,) = kernels(config)
    scatter, once = config["combine"] == "scatter", config["dequantise"] == "expert"
    rows = len(plan.row_token)
    inputs = None
    if config["gather"] == "first":
        inputs = decode_rows(hidden_states, hidden_states_scale, plan.row_token)
    # Row `rows` stays zero: choices of other ranks' experts point to it.
    result = np.zeros((threads, T, H), np.float32) if scatter else np.empty((1, rows + 1, H), np.float32)
    # Where weights are decoded once per expert an expert is not split, else two threads would decode it.
    work = assign(plan, threads, max(rows, 1) if once else config["row_tile"])

    def task(i):
        first, hidden, second, decoded1, decoded2, tile = scratch(config)
        solve(
            work[i], plan.row_token, plan.row_weight, x, x_scale, w1, s1, w2, s2, FP8_VALUES,
            tile if inputs is None else inputs, first, hidden, second, decoded1, decoded2, result[i if scatter else 0],
        )  # fmt: skip

    in_parallel(threads, task)
    if scatter:
        output.copy_(torch.from_numpy(result).sum(dim=0) if threads > 1 else torch.from_numpy(result[0]))
    else:
        result[0, rows] = 0
        output.copy_(sum_rows(plan, torch.from_numpy(result[0])))


def sum_rows(plan, result):
    """Sum of each token's rows, [T, H]; ``result`` [R + 1, H] ends with a row of zeros."""
    return torch.nn.functional.embedding_bag(torch.from_numpy(plan.token_row), result, mode="sum")


def by_products(config, plan, x, x_scale, w1, s1, w2, s2, output):
    """Fill ``output`` expert by expert: our threads decode its weights, torch's own threads multiply."""
    decode_tokens, decode_weights, activate = kernels(config)
    H, INNER = SIZES["hidden_size"], SIZES["intermediate_size"]
    dtype = torch.bfloat16 if config["product"] == "blas_bf16" else torch.float32
    rows, threads = len(plan.row_token), config["threads"]
    result = torch.empty(rows + 1, H, dtype=dtype)
    result[rows] = 0
    decoded1, decoded2 = matrix("decoded1", 2 * INNER, H, dtype), matrix("decoded2", H, INNER, dtype)
    for e, (start, count) in enumerate(zip(plan.starts.tolist(), plan.filled.tolist(), strict=False)):
        if not count:
            continue

        def decode(i, e=e):
            for w, s, out in ((w1, s1, decoded1), (w2, s2, decoded2)):
                step = -(-len(out) // threads)
                decode_weights(w, s, e, min(i * step, len(out)), min((i + 1) * step, len(out)), bits(out))

        in_parallel(threads, decode)
        for base in range(start, start + count, config["row_tile"]):
            end = min(base + config["row_tile"], start + count)
            tile = matrix("rows", config["row_tile"], H, dtype)[: end - base]
            hidden = matrix("hidden", config["row_tile"], INNER, dtype)[: end - base]
            decode_tokens(plan.row_token[base:end], x, x_scale, bits(tile))
            first = torch.mm(tile, decoded1.t()).float()
            activate(first.numpy(), plan.row_weight[base:end], bits(hidden))
            torch.mm(hidden, decoded2.t(), out=result[base:end])
    output.copy_(sum_rows(plan, result))


def matrix(name, rows, columns, dtype):
    """This thread's buffer of that name and size, kept between calls as :func:`scratch` does."""
    buffers = _scratch.__dict__
    key = (name, rows, columns, dtype)
    if key not in buffers:
        buffers[key] = torch.empty(rows, columns, dtype=dtype)
    return buffers[key]


def bits(tensor):
    """A tensor as the numpy array that the kernels take: bfloat16 as its uint16 bits."""
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
