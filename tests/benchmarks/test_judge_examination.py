"""The judge's examination on the packaged definitions and on small ones of eight kinds: nothing right is refused, no
planted mistake passes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.judge_examination import made, publish, reduced
from benchmarks.judge_examination.examine import RIGHT, examine
from search_spaces.dataset import PATH
from workers.fib.dataset import Dataset
from workers.judge.outputs.rules import Asked
from workers.records import METHOD_REVISION

N, M = {"n": {"type": "var"}}, {"m": {"type": "const", "value": 64}}


def definition(name, reference, inputs, outputs, op_type="toy", **axes):
    def spec(tensors):
        return {n: {"shape": shape.split(), "dtype": dtype} for n, (shape, dtype) in tensors.items()}

    sizes = {a: {"type": "var"} if v is None else {"type": "const", "value": v} for a, v in axes.items()}
    used = {a for shape, _ in (*inputs.values(), *outputs.values()) for a in shape.split()}
    every = {**N, **M, **sizes}
    return {
        "name": name,
        "op_type": op_type,
        "axes": {axis: every[axis] for axis in every if axis in used},
        "inputs": spec(inputs),
        "outputs": spec(outputs),
        "reference": f"import torch\n\n\n{reference}",
    }


X = {"x": ("n m", "float32")}
KINDS = {
    "attention": definition(
        "attention",
        "def run(q, k, v):\n"
        "    s = (q @ k.T).masked_fill(torch.arange(len(k)) > torch.arange(len(q))[:, None] - 1, -torch.inf)\n"
        "    lse = s.logsumexp(-1)\n    return torch.where(lse.isinf()[:, None], 0, s.softmax(-1)) @ v, lse\n",
        {"q": ("n m", "float32"), "k": ("keys m", "float32"), "v": ("keys m", "float32")},
        {"output": ("n m", "float32"), "lse": ("n", "float32")}, keys=None,
    ),
    "softmax": definition("softmax", "def run(x):\n    return (9 * x).softmax(-1)\n", X, {"y": ("n m", "float32")}),
    "topk": definition(
        "topk", "def run(x):\n    v, i = torch.topk(x, 8, dim=-1)\n    return v.softmax(-1), i.to(torch.int32)\n", X,
        {"weights": ("n k", "float32"), "topk_ids": ("n k", "int32")}, k=8,
    ),
    "sampling": definition(
        "sampling",
        "def run(probs, top_k):\n    ordered = probs.sort(-1, descending=True).values\n"
        "    least = ordered.gather(1, top_k.long().clamp(max=probs.shape[1])[:, None] - 1)\n"
        "    return torch.multinomial(torch.where(probs >= least, probs, 0), 1).squeeze(1)\n",
        {"probs": ("batch_size vocab_size", "float32"), "top_k": ("batch_size", "int32")},
        {"samples": ("batch_size", "int64")}, op_type="sampling", batch_size=None, vocab_size=64,
    ),
    "quantise": definition(
        "quantise",
        "def run(x):\n    scale = x.abs().amax(-1) / 448\n"
        "    return (x / scale[:, None]).to(torch.float8_e4m3fn), scale\n",
        X, {"codes": ("n m", "float8_e4m3fn"), "scale": ("n", "float32")},
    ),
    "positions": definition(
        "positions", "def run(x):\n    return ((x > 0).cumsum(-1) * (x > 0)).to(torch.int32)\n", X,
        {"positions": ("n m", "int32")},
    ),
    "constant": definition(
        "constant", "def run(x):\n    return x + 1, torch.ones(len(x))\n", X,
        {"y": ("n m", "float32"), "ones": ("n", "float32")},
    ),
    "cache": definition(
        "cache", "def run(cache, rows, slots):\n    cache[slots.long()] = rows\n    return cache\n",
        {"cache": ("state_cache_size m", "bfloat16"), "rows": ("batch_size m", "bfloat16"),
         "state_batch_indices": ("batch_size", "int32")},
        {"new_cache": ("state_cache_size m", "bfloat16")}, state_cache_size=None, batch_size=None,
    ),
}  # fmt: skip


@pytest.fixture(name="problem_of")
def _problem_of(tmp_path):
    def write(document):
        made.dataset(tmp_path, document)
        return Dataset(tmp_path).problem(document["name"])

    return write


def misses(found):
    """Right candidates that were refused, and mistakes that were not."""
    return [(f.output, f.mistake, f.message) for f in found if f.caught == (f.mistake in RIGHT)]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_output_is_judged_rightly(problem_of, kind):
    found, unjudgeable = examine(problem_of(KINDS[kind]))
    assert not unjudgeable
    assert misses(found) == []
    assert len(found) >= 9


@pytest.mark.parametrize("name", sorted(Dataset(PATH).definitions))
def test_packaged_definitions_are_judged_rightly(name):
    whole = Dataset(PATH).problem(name)
    smallest = sorted(whole.workloads, key=lambda w: sum(w["axes"].values()))[:2]
    found, unjudgeable = examine(replace(whole, workloads=tuple(smallest)))
    assert not unjudgeable
    assert misses(found) == []
    assert ("one expert wrong" in {f.mistake for f in found}) == ("moe" in name)


def test_a_judge_that_accepts_anything_fails_its_examination(problem_of):
    lenient = replace(problem_of(KINDS["attention"]), asked=Asked(rtol={"": 0.9}, required_matched_ratio={"": 0.3}))
    found, _ = examine(lenient)
    assert {"one row wrong", "off by one index"} <= {mistake for _, mistake, _ in misses(found)}


def test_smaller_definitions_keep_their_proportions():
    moe = {
        "axes": {a: {"type": "const", "value": v} for a, v in
                 {"hidden_size": 7168, "intermediate_size": 2048, "num_hidden_blocks": 56, "num_experts": 32}.items()},
        "inputs": {"weights": {"shape": ["num_experts", "hidden_size", "intermediate_size"], "dtype": "bfloat16"}},
        "reference": "def run(x):\n    H, I, BLOCK = 7168, 2048, 128\n    return x\n",
    }  # fmt: skip
    (smaller, factor), *_, (whole, one) = reduced.candidates(moe, "cpu")
    assert (factor, one, whole["axes"]) == (8, 1, moe["axes"])
    assert [spec["value"] for spec in smaller["axes"].values()] == [896, 256, 7, 32]
    assert "H, I, BLOCK = (896, 256, 128)" in smaller["reference"]
    assert [factor for _, factor in reduced.candidates(moe, "cuda")] == [1, 8, 8], "a GPU holds it as it is"
    moe["axes"]["num_experts"]["value"] = 500
    assert [factor for _, factor in reduced.candidates(moe, "cuda")] == [8, 8, 1], "not even a GPU holds it"


def test_page_and_records_say_what_was_missed(problem_of, tmp_path):
    found, _ = examine(problem_of(KINDS["softmax"]))
    records = [f.document() for f in found]
    records[-1]["caught"] = False
    document = {"definition": "softmax", "op_type": "toy", "factor": 4, "why": "", "revision": 3, "found": records}
    publish.write([document], tmp_path)
    page = (tmp_path / "judge.md").read_text()
    planted = len(records) - 2
    assert f"| {records[0]['device']} | 1 of 1 | 2 | 0 | {planted} | {planted - 1} " in page
    assert f"* **{records[-1]['mistake']}**: ?" in page
    assert {"definition", "mistake", "verdict", "caught", "device"} <= set(
        json.loads((tmp_path / "judge.json").read_text())[0]
    )


def test_the_page_says_which_figures_are_of_an_earlier_judge():
    """A page of an earlier revision would claim for the present judge what another one has shown."""
    results = Path(__file__).parents[2] / "docs" / "results"
    records = json.loads((results / "judge.json").read_text())
    older = {r["revision"] for r in records if r["revision"] < METHOD_REVISION}
    assert not older or f"method than {METHOD_REVISION}." in (results / "judge.md").read_text()
