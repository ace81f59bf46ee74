"""What tests of the built kernels share: Solutions that are staged, built and called without a GPU."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.packaged_dataset.make import MoeSizes
from search_spaces.moe_fp8_cute.space import FAMILY
from search_spaces.space import SearchSpace
from tests.search_spaces.moe_fp8 import definitions as moe
from workers.emulator.host.launches import Host, build_with_ptx, compile_mock

SMALL = {"experts": 64, "local": 4, "hidden": 512, "intermediate": 512, "top_k": 3}
"""Sizes of the small Solution."""
BOUNDS = [6, 128, 901, 5000, 20_000, 25_000]
"""Tokens after which the small Solution takes its next config."""
CTAS = 4
"""SMs that its persistent grids are made for: many tiles for each CTA."""
CONFIGS = {
    "sm_90a": {
        # tokens as M, rows gathered by cp.async, everything fused
        "fused": {"tile_w_2": 128},
        # every kernel that a config can have, parts of K
        "apart": {
            **{"layout": "batched", "gather": "kernel", "requant": "kernel", "combine": "atomic_f32"},
            **{"pdl": False, "early_weights": False, "order": "weights", "swap_2": True, "tile_t_2": 16},
            **{"tile_w_2": 128, "split_k_1": 2, "split_k_2": 2, "stages_1": 3, "stages_2": 3, "narrow": 8},
        },
        # clusters that share tokens or weights; reduction in bfloat16
        "multicast": {
            **{"gather": "kernel", "combine": "atomic_bf16", "multicast_1": "tokens", "multicast_2": "weights"},
            **{"alternate": True},
            **{"tile_t_1": 128, "groups_1": 2, "stages_1": 4, "tile_t_2": 128, "groups_2": 2, "stages_2": 4},
        },
        # weights as M, clusters by the maximum of a narrow tile, two CTAs per SM
        "narrow": {
            **{"ctas_per_sm_2": 2, "swap_1": True, "tile_t_1": 16, "tile_w_1": 128, "groups_1": 2, "stages_1": 3},
            **{"swap_2": True, "tile_t_2": 16, "tile_w_2": 128, "groups_2": 2, "stages_2": 3, "early_weights": False},
        },
        # launches by the rows of the experts, and of GEMM 1 also by how many tiles they are
        "split": {
            **{"combine": "atomic_bf16", "split_rows": 8, "many_tile_t": 64, "many_tile_w_2": 128, "stages_1": 3},
            **{"many_ctas_per_sm": 2, "small_tiles": 2, "narrow_tiles": 2},
            **{"swap_1": True, "tile_t_1": 16, "tile_w_1": 128, "groups_1": 2, "narrow": 8},
            **{"swap_2": True, "tile_t_2": 16, "tile_w_2": 128, "stages_2": 3},
        },
        # rows permuted beside GEMM 1, the output cleared along its main loop
        "beside": {
            **{"gather": "beside", "combine": "atomic_bf16", "clear": "along", "multicast_1": "weights"},
            **{"order": "mixed", "tile_w_2": 128, "stages_2": 4},
            **{"tile_t_1": 128, "groups_1": 2, "stages_1": 4, "tile_t_2": 128, "groups_2": 2},
        },
        # GEMM 2 beside the last tiles of GEMM 1, from a queue
        "feed": {
            **{"feed": "tiles", "gather": "beside", "combine": "atomic_bf16", "clear": "along"},
            **{"multicast_1": "weights", "multicast_2": "weights"},
            **{"tile_t_1": 128, "groups_1": 2, "stages_1": 4, "tile_t_2": 128, "groups_2": 2, "stages_2": 4},
        },
    },
    "sm_100a": {
        # tokens as M, 1 CTA; rows gathered by TMA, those of GEMM 2 handed over
        "fused": {"tile_w_2": 128, "handover": True},
        # pairs with tokens as M, boxes shared along the weights; reduction in bfloat16
        "multicast": {
            **{"gather": "kernel", "combine": "atomic_bf16", "k_tile_2": 256, "stages_2": 2},
            **{"mma_m_1": 256, "cluster_t_1": 2, "cluster_w_1": 2, "mma_m_2": 256, "cluster_t_2": 2},
        },
        # pairs with weights as M, few rows multiplied with an N of 32; parts of K
        "apart": {
            **{"layout": "batched", "gather": "kernel", "requant": "kernel", "combine": "atomic_f32"},
            **{"pdl": False, "early_weights": False, "order": "weights"},
            **{"swap_1": True, "mma_m_1": 256, "tile_t_1": 64, "tile_w_1": 128, "cluster_w_1": 2, "split_k_1": 2},
            **{"swap_2": True, "mma_m_2": 256, "tile_t_2": 32, "tile_w_2": 128, "cluster_w_2": 2, "cluster_t_2": 2},
            **{"split_k_2": 2, "acc_stages_1": 1, "narrow": 32},
        },
        # clusters by the maximum of a narrow tile, which has an N of its own; rows gathered by cp.async
        "narrow": {
            **{"gather": "fused", "swap_1": True, "mma_m_1": 64, "tile_t_1": 16, "tile_w_1": 64, "cluster_w_1": 4},
            **{"swap_2": True, "mma_m_2": 64, "tile_t_2": 16, "tile_w_2": 128, "stages_2": 3, "ctas_per_sm_2": 2},
            **{"early_weights": False, "narrow": 8},
        },
        # two launches of each GEMM, by the rows of the experts; sums handed over by the one for many
        "split": {
            **{"combine": "atomic_bf16", "split_rows": 8, "swap_1": True, "tile_t_1": 16, "tile_w_1": 128},
            **{"cluster_w_1": 2, "swap_2": True, "tile_t_2": 32, "tile_w_2": 128, "many_mma_m": 256},
            **{"handover": True},
        },
    },
}
"""Per target, changes of the default that together reach every kernel and every way through the GEMMs."""


@pytest.fixture(scope="session")
def make_definition() -> Callable[..., dict]:
    """Makes a definition of the main one's form, with some numbers changed; needs no dataset."""

    def make(routing: str = "deepseek", **changed: int) -> dict:
        sizes = replace(MoeSizes(7168, 2048, 256, 32, 8, 8, 4), **changed)
        if routing == "renorm":
            return moe.definition(replace(sizes, groups=1, topk_groups=1, renorm=True), moe.renorm)
        return moe.definition(sizes, moe.as_tuple)

    return make


class Built:
    """A staged Solution with one row per config, compiled; ``ask`` gives what its calls launch.

    Args:
        folder: Where the package goes; its name is the package's.
        mock: The mock runtime.
        space: Of the configs.
        configs: One for each row of the table.
        ctas: SMs that the persistent grids are made for, where not what the configs say: few CTAs have many tiles each.
        keep_ptx: Leave the PTX of each config in ``artifacts/FUNCTION.ptx``.
        instead: Parameters that have another value in configs where they are not 0, one that the space need not have:
            few rows are emulated sooner.
    """

    def __init__(
        self,
        folder: Path,
        mock: Path,
        space: SearchSpace,
        configs: list[dict],
        bounds: list[int],
        ctas: int | None = None,
        keep_ptx: bool = False,
        instead: Mapping[str, int] | None = None,
    ):
        self.folder, self.space = folder, space
        self.names: list[str] = []
        others = {**(instead or {}), **({"sms": ctas} if ctas else {})}
        self.configs = [{**config, **{n: v for n, v in others.items() if config[n]}} for config in configs]
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        for name, text in space.render(list(zip([*bounds, None], configs, strict=True))).items():
            if name == "config.py":
                for parameter, value in others.items():
                    text = re.sub(rf"'{parameter}': [1-9]\d*", f"'{parameter}': {value}", text)
            (folder / name).write_text(text)
        if keep_ptx:
            build_with_ptx(folder)
        else:
            # Sampled configs may spill, which makes them hopeless and not wrong.
            build = f"b.TOLERATED_SPILL_BYTES = 1 << 20; b.build('{folder.name}/artifacts')"
            environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
            command = [sys.executable, "-c", f"import {folder.name}.build as b; {build}"]
            done = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, env=environment)
            assert done.returncode == 0, done.stderr[-2000:]
        self.host = Host(mock, folder)

    def ask(self, *requests: dict) -> list[dict]:
        """Answers of the process that calls the Solution (workers/emulator/host/probe.py)."""
        return [self.host.ask(request) for request in requests]

    def close(self) -> None:
        """End the process."""
        self.host.close()


@pytest.fixture(scope="session")
def build_solution(tmp_path_factory) -> Iterator[Callable[..., Built]]:
    """Builds Solutions for a target; they end with the tests. Arguments: see Built."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed: the mock CUDA runtime cannot be compiled")
    root = tmp_path_factory.mktemp("solutions")
    mock = compile_mock(root)
    numbers = itertools.count()
    with contextlib.ExitStack() as stack:

        def build(target: str, definition: dict, changes: list[dict], bounds: list[int], **options) -> Built:
            space = FAMILY.space(definition, target)
            configs = [{**space.default, **c} for c in changes]
            for config in configs:
                why = space.violation(space.check(config))
                assert why is None, why
            built = Built(root / f"variant_{next(numbers)}", mock, space, configs, bounds, **options)
            return stack.enter_context(contextlib.closing(built))

        yield build


@pytest.fixture(scope="session", params=sorted(CONFIGS))
def small_solution(request, build_solution, make_definition) -> Built:
    """The configs of the table above in one Solution with its PTX; it dispatches after BOUNDS."""
    table = CONFIGS[request.param]
    bounds = BOUNDS[: len(table) - 1]
    built = build_solution(request.param, make_definition(**SMALL), [*table.values()], bounds, ctas=CTAS, keep_ptx=True)
    built.names = list(table)
    return built
