"""The baselines are valid Solutions for every definition they claim, and say why they cannot run where they cannot."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[2]
DATASET = ROOT.parent / "shared" / "flashinfer-trace"
KINDS = ("triton", "deepgemm", "flashinfer")

spec = importlib.util.spec_from_file_location("baselines_make", ROOT / "benchmarks" / "baselines" / "make.py")
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)


def definitions() -> list[Path]:
    """The packaged definition, and the public ones where they are at hand."""
    folders = (ROOT / "search_spaces" / "dataset", DATASET)
    return [path for folder in folders for path in sorted(folder.glob("definitions/moe/moe_fp8_block_scale_*.json"))]


@pytest.fixture(scope="module", params=definitions(), ids=lambda p: p.stem)
def definition(request) -> dict:
    return json.loads(request.param.read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_flashinfer_bench_takes_the_solution(kind, definition):
    data = pytest.importorskip("flashinfer_bench.data")
    document = make.solution(kind, definition)
    loaded = data.Solution.model_validate(document)
    assert loaded.definition == definition["name"]
    assert loaded.get_entry_path().name == "main.py"
    for source in loaded.sources:
        compile(source.content, source.path, "exec")


def imported(kind: str, definition: dict, folder: Path):
    """The Solution's entry module, from its own sources alone."""
    package = f"{kind}_{definition['name']}"
    for source in make.solution(kind, definition)["sources"]:
        path = folder / package / source["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source["content"])
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(f"{package}.main")
    finally:
        sys.path.pop(0)


@pytest.mark.parametrize("kind", KINDS)
def test_refuses_with_a_reason(kind, definition, tmp_path, monkeypatch):
    """Nothing is half done on a machine that cannot run it: one line that names what is missing."""
    module = imported(kind, definition, tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    why = module.unavailable()
    assert why is not None
    assert "\n" not in why
    arguments = [torch.zeros(1) for _ in definition["inputs"]] + [torch.zeros(1)]
    with pytest.raises(module.Skipped, match=re.escape(why)):
        module.run(*arguments)


def test_sizes_are_the_definitions(definition, tmp_path):
    sizes = imported("triton", definition, tmp_path).SIZES
    inputs = definition["inputs"]
    axes = {name: axis.get("value") for name, axis in definition["axes"].items()}
    assert sizes["hidden"] == axes["hidden_size"]
    assert sizes["local_experts"] == axes["num_local_experts"]
    assert sizes["experts"] == axes[inputs["routing_logits"]["shape"][1]]
    assert (sizes["routing"] == "deepseek") == ("routing_bias" in inputs)


def test_flashinfer_wrapper_names_arguments_that_flashinfer_has():
    """A renamed keyword upstream would otherwise show on a B200 only."""
    import ast

    found = importlib.util.find_spec("flashinfer")
    if found is None:
        pytest.skip("flashinfer-python is not installed")
    core = Path(found.origin).parent / "fused_moe" / "core.py"
    functions = [n for n in ast.walk(ast.parse(core.read_text())) if isinstance(n, ast.FunctionDef)]
    signatures = [
        {a.arg for a in (*f.args.args, *f.args.kwonlyargs)} for f in functions if f.name == "trtllm_fp8_block_scale_moe"
    ]
    main = (ROOT / "benchmarks" / "baselines" / "solutions" / "flashinfer" / "main.py").read_text()
    calls = [n for n in ast.walk(ast.parse(main)) if isinstance(n, ast.Call)]
    used = next({k.arg for k in c.keywords} for c in calls if getattr(c.func, "id", "") == "trtllm_fp8_block_scale_moe")
    assert signatures
    assert any(used <= names for names in signatures), used - signatures[0]
