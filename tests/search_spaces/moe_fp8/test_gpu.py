"""Kernels on a GPU against the references of definitions: all that are packaged, and ten of the MoE kind."""

import contextlib
import importlib
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from search_spaces.dataset import PATH
from search_spaces.directory import DirectoryFamily
from search_spaces.moe_fp8.proof import inputs
from search_spaces.moe_fp8.reading import read
from search_spaces.moe_fp8_cute.space import FAMILY
from search_spaces.space import SearchSpace
from tests.search_spaces.moe_fp8.definitions import TEN, definition
from workers.devices.environment import gpu_target
from workers.fib.dataset import Dataset

pytestmark = pytest.mark.gpu

torch = pytest.importorskip("torch")
if gpu_target() not in FAMILY.targets:
    pytest.skip(f"no GPU of {', '.join(FAMILY.targets)}", allow_module_level=True)

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
TOKENS = (1, 7, 130, 900)
SAMPLED = 2
"""Random configs of each definition beside its default."""
TOLERANCE = 0.08
"""Largest relative error of all tokens together: requantising to FP8 between the GEMMs makes 0.02 to 0.04."""


class Hopeless(Exception):  # noqa: N818 - the default must not be, a random config may
    """The static figures of a config's build say that it is not worth running."""


def packaged() -> dict[str, dict]:
    return Dataset(PATH).definitions


def load(space: SearchSpace, config: dict, folder: Path):
    """The entry point's module of a config, built where it has something to build."""
    folder.mkdir()
    (folder / "__init__.py").write_text("", encoding="utf-8")
    for name, text in space.variant_sources(config).items():
        (folder / name).write_text(text, encoding="utf-8")
    sys.path.insert(0, str(folder.parent))
    try:
        if (folder / "build.py").is_file():
            build = importlib.import_module(f"{folder.name}.build")
            try:
                build.build(str(folder / "artifacts"))
            except build.Rejected as refused:
                raise Hopeless(str(refused)) from None
        return importlib.import_module(f"{folder.name}.main")
    finally:
        sys.path.pop(0)


def reference(made: dict):
    scope: dict = {"__name__": "reference"}
    exec(made["reference"], scope)
    return scope["run"]


def error(got, want) -> float:
    return float((got.float() - want.float()).norm() / want.float().norm())


MOES = [made for made in packaged().values() if made["op_type"] == "moe"] + [definition(s, w) for s, w in TEN]


@pytest.mark.parametrize("made", MOES, ids=lambda d: d["name"])
def test_moe_kernels_give_what_the_reference_gives(made, tmp_path):
    """A family that misreads a routing constant of a definition has no right config at all."""
    reading, space = read(made), FAMILY.space(made, gpu_target())
    rng = random.Random(made["name"])
    configs = [space.default, *(s.config for s in space.starts[:1]), *(space.sample(rng) for _ in range(SAMPLED))]
    modules = []
    for i, config in enumerate(configs):
        with contextlib.suppress(*([] if i == 0 else [Hopeless])):
            modules.append((config, load(space, config, tmp_path / f"moe_{abs(hash(made['name']))}_{i}")))
    for tokens in TOKENS:
        given = inputs(reading, tokens, "cuda")
        want = reference(made)(*given)
        assert torch.isfinite(want.float()).all()
        assert want.float().norm() > 0
        for config, module in modules:
            out = torch.full_like(want, torch.nan)
            module.run(*given, out)
            torch.cuda.synchronize()
            assert error(out, want) < TOLERANCE, (tokens, config)


def test_a_wrong_routing_constant_does_not_pass_here(tmp_path):
    """What was released once: four kept groups instead of two."""
    (made,) = [m for m in packaged().values() if m["op_type"] == "moe"]
    space = FAMILY.space(made, gpu_target())
    wrong = replace(space, sizes={**space.sizes, "topk_groups": space.sizes["groups"]})
    module = load(wrong, wrong.default, tmp_path / "moe_misread")
    given = inputs(read(made), 130, "cuda")
    want = reference(made)(*given)
    out = torch.empty_like(want)
    module.run(*given, out)
    assert error(out, want) > TOLERANCE


@pytest.mark.parametrize("made", [m for m in packaged().values() if m["op_type"] != "moe"], ids=lambda d: d["name"])
def test_examples_give_what_the_reference_gives(made, tmp_path):
    """The examples are torch, so their Solutions run on a GPU too; every packaged definition has one."""
    family = DirectoryFamily(EXAMPLES / made["op_type"])
    space = family.space(made, family.targets[0])
    rng = random.Random(1)
    for i, config in enumerate([space.default, *(space.sample(rng) for _ in range(SAMPLED))]):
        module = load(space, config, tmp_path / f"{made['op_type']}_{i}")
        for size in TOKENS:
            extents = {n: axis.get("value", size) for n, axis in made["axes"].items()}
            given = [
                torch.randn([extents[a] for a in spec["shape"]], device="cuda").to(getattr(torch, spec["dtype"]))
                for spec in made["inputs"].values()
            ]
            want = reference(made)(*given)
            out = torch.full_like(want, torch.nan)
            module.run(*given, out)
            assert error(out, want) < 0.01, (size, config)
