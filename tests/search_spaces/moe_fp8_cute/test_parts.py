"""What configs share of their kernels: a kernel is made from its document alone, and documents say everything."""

from __future__ import annotations

import ast
import importlib
import itertools
import json
import random
from pathlib import Path

import pytest

from benchmarks.packaged_dataset.make import MoeSizes
from search_spaces.moe_fp8_cute.solution import pipeline
from search_spaces.moe_fp8_cute.space import FAMILY
from tests.search_spaces.moe_fp8 import definitions as moe

SOLUTION = Path(pipeline.__file__).parent
COMPILED = {"target", "name", "zeroed"}
"""What a document says to the compiler's options, the symbol and the tracing of the launch."""


@pytest.fixture(scope="module", params=FAMILY.targets)
def space(request):
    definition = moe.definition(MoeSizes(7168, 2048, 256, 32, 8, 8, 4), moe.as_tuple)
    return FAMILY.space(moe.promising(definition), request.param)


def documents(space, config) -> list[dict]:
    """Everything that a config is compiled from."""
    found = pipeline.kernels(config, space.sizes, space.target)
    return [*found, pipeline.host(config, space.sizes, space.target, len(found))]


def neighbours(space, name: str):
    """Pairs of valid configs that differ in one parameter alone."""
    rng = random.Random(name)
    values = next(p.values for p in space.parameters if p.name == name)
    configs = itertools.chain((s.config for s in space.starts), (space.sample(rng) for _ in range(400)))
    for config in configs:
        for value in values:
            if value != config[name] and space.violation({**config, name: value}) is None:
                yield dict(config), {**config, name: value}


def test_every_parameter_is_said_by_some_document(space):
    """A parameter that no document says would be compiled once, and its values be timed as if they were different."""
    for parameter in space.parameters:
        pairs = neighbours(space, parameter.name)
        assert any(documents(space, a) != documents(space, b) for a, b in pairs), parameter.name


def test_a_forgotten_parameter_is_noticed(space, monkeypatch):
    """The mistake that the test above would catch, planted: a document without the order of the tiles."""
    original = pipeline.launches

    def forgets(config, sizes):
        return original({**config, "order": "tokens"}, sizes)

    monkeypatch.setattr(pipeline, "launches", forgets)
    assert all(documents(space, a) == documents(space, b) for a, b in itertools.islice(neighbours(space, "order"), 50))


def test_what_a_document_leaves_out_is_no_default(space):
    """Fields of a plan have defaults; a document that leaves one out would be a kernel of another config."""
    pytest.importorskip("cutlass", reason="nvidia-cutlass-dsl is not installed")
    from search_spaces.moe_fp8_cute.solution.kernel import Kernel

    everything = {**space.default, "gather": "kernel", "requant": "kernel", "combine": "atomic_f32"}
    whole = pipeline.kernels(everything, space.sizes, space.target)
    whole += pipeline.kernels({**space.default, "combine": "finalize"}, space.sizes, space.target)
    gemm = next(d for d in whole if d["kind"] == "gemm")
    for field in gemm["plan"]:
        with pytest.raises((ValueError, TypeError)):
            Kernel({**gemm, "plan": {k: v for k, v in gemm["plan"].items() if k != field}})
    for document in whole:
        Kernel(json.loads(json.dumps(document)))
        # The others are read when it is compiled.
        for field in ("kind", "name", "plan") if document["kind"] == "gemm" else set(document) - COMPILED:
            with pytest.raises(KeyError):
                Kernel({k: v for k, v in document.items() if k != field})


def test_documents_are_json_and_kernels_have_names_of_their_own(space):
    rng = random.Random(3)
    for _ in range(60):
        found = documents(space, space.sample(rng))
        assert json.loads(json.dumps(found)) == found
        assert len({pipeline.symbol(d) for d in found}) == len(found), "two launches of one config share an object"


def test_only_build_and_main_read_the_config():
    """What a kernel read there would be in no document."""
    readers = set()
    for path in SOLUTION.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (
                node.module == "config" or "config" in [a.name for a in node.names]
            ):
                readers.add(path.name)
    assert readers == {"build.py", "main.py"}


def test_parts_are_made_where_there_is_no_config(space, tmp_path, monkeypatch):
    """So nothing but the document decides what comes out: of a kernel, and of the host function."""
    pytest.importorskip("cutlass", reason="nvidia-cutlass-dsl is not installed")
    package = tmp_path / f"parts_of_{space.target}"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for name, text in space.sources.items():
        (package / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    objects = importlib.import_module(f"{package.name}.objects")
    cast = pipeline.kernels({**space.default, "combine": "atomic_f32"}, space.sizes, space.target)[-1]
    for document in (cast, pipeline.host(space.default, space.sizes, space.target, 4)):
        objects.make(json.loads(json.dumps(document)), tmp_path)
        assert (tmp_path / f"{pipeline.symbol(document)}.o").stat().st_size > 1000
    assert objects.figures_of(pipeline.symbol(cast), tmp_path)
    assert not (package / "config.py").exists()
