"""What a candidate makes of its process is its own: it has it in each of its turns, and nobody after it has it."""

import json

import pytest
import torch
from safetensors.torch import save_file

from tests.tuner import toy
from workers.fib import made_workloads
from workers.fib.dataset import Dataset
from workers.records import ComparisonJob, EvaluationJob, Method, Status

QUICK = Method(warmup_s=0.0, min_samples=3, max_samples=6, budget_s=0.5, cold_cache=False)
KERNEL = "def run(x, y, out):\n    torch.add(y, x, alpha=2, out=out)\n"

CHANGES = {
    "threads": "torch.set_num_threads(1 + torch.get_num_threads() % 2)",
    "default dtype": "torch.set_default_dtype(torch.float64)",
    "default device": "torch.set_default_device('meta')",
    "deterministic": "torch.use_deterministic_algorithms(True)",
    "gradients": "torch.set_grad_enabled(True)",
    "anomaly detection": "torch.autograd.set_detect_anomaly(True)",
    "matmul precision": "torch.set_float32_matmul_precision('medium')",
    "TF32": "torch.backends.cuda.matmul.allow_tf32 = True",
    "TF32 by its new name": "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "cuDNN": "torch.backends.cudnn.benchmark = True",
    "denormal numbers": "torch.set_flush_denormal(True)",
    "variables": "os.environ['OMP_NUM_THREADS'] = '7'; os.environ.pop('HOME', None)",
    "working folder": "os.chdir('/')",
    "warning filters": "warnings.simplefilter('error')",
    "import path": "sys.path.insert(0, '/elsewhere')",
    "logging": "logging.disable(50); logging.getLogger().setLevel(1); logging.basicConfig()",
    "signal handler": "signal.signal(signal.SIGTERM, lambda *_: None)",
    "seeds": "torch.manual_seed(5); random.seed(5); np.random.seed(5)",
    "garbage collection": "gc.disable()",
    "limits": "resource.setrlimit(resource.RLIMIT_NOFILE, (500, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))",
    "streams": "sys.stdout = sys.stderr = open(os.devnull, 'w')",
    "tracing": "sys.setprofile(lambda *_: None)",
    "built-in function": "import builtins; builtins.print = None",
    "function of Python's library": "json.dumps = None; vars(json).pop('loads', None)",
    "function that says it is the same": "import builtins; "
    "builtins.print = type('Same', (), {'__eq__': lambda *_: True, '__hash__': None, '__call__': lambda *_: None})()",
    "function that reads the process": "os.getcwd = os.sched_getaffinity = None",
    "module that a function imports": "sys.modules.update(math=None)",
    "loaded modules": "sys.modules.update(json=None); sys.modules.pop('numpy', None)",
    "function of a library": "torch.nn.functional.silu = np.mean = None; torch.Tensor.tanh = torch.Tensor.sin",
    "CPUs": "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})",
}

FOR_GOOD = {
    "interop threads": ("torch.set_num_interop_threads(3)", "torch's interop threads"),
    "inference mode": ("setattr(torch, 'mine', torch.inference_mode()) or torch.mine.__enter__()", "inference mode"),
}

IMPORTS = "import gc, json, logging, os, random, resource, signal, sys, warnings\nimport numpy as np\nimport torch\n\n"


def probe(note) -> str:
    """Tells what it finds."""
    return IMPORTS + (
        "\n\ndef found():\n    from torch.utils import _device\n    return {\n"
        "        'threads': torch.get_num_threads(), 'dtype': str(torch.get_default_dtype()),\n"
        "        'device': str(_device.CURRENT_DEVICE), 'modes': torch._C._len_torch_function_stack(),\n"
        "        'deterministic': torch.are_deterministic_algorithms_enabled(), 'grad': torch.is_grad_enabled(),\n"
        "        'anomaly': torch.is_anomaly_enabled(), 'precision': torch.get_float32_matmul_precision(),\n"
        "        'tf32': torch.backends.cuda.matmul.allow_tf32, 'cudnn': torch.backends.cudnn.benchmark,\n"
        "        'denormal': sys.float_info.min / 2, 'environ': sorted(os.environ.items()), 'folder': os.getcwd(),\n"
        "        'filters': str(warnings.filters), 'path': '/elsewhere' in sys.path, 'handlers': str(logging.root),\n"
        "        'disabled': logging.root.manager.disable, 'term': str(signal.getsignal(signal.SIGTERM)),\n"
        "        'gc': gc.isenabled(), 'limit': resource.getrlimit(resource.RLIMIT_NOFILE), 'out': sys.stdout.name,\n"
        "        'profile': str(sys.getprofile()), 'cpus': sorted(os.sched_getaffinity(0)),\n"
        "        'print': str(print), 'json': str((json.dumps, json.loads)), 'numpy': np is sys.modules['numpy'],\n"
        "        'libraries': str((torch.nn.functional.silu, np.mean, torch.Tensor.tanh)),\n"
        "        'drawn': [torch.rand(1).item(), random.random(), np.random.rand()],\n    }\n\n\n"
        f"open({str(note)!r}, 'w').write(json.dumps(found()))\n{KERNEL}"
    )


@pytest.fixture(scope="module")
def look(bench, make, tmp_path_factory):
    """What a candidate finds that is loaded now; ``before`` is what the first one found."""
    note = tmp_path_factory.mktemp("look") / "found.json"

    def look():
        bench.judge(make(probe(note), key="probe"))
        return json.loads(note.read_text())

    look.before = None
    return look


@pytest.mark.parametrize("when", ["imported", "called"])
@pytest.mark.parametrize("what", CHANGES)
def test_change_is_put_back(bench, make, look, what, when):
    look.before = look.before or look()
    inside = KERNEL.replace("\n    ", f"\n    {CHANGES[what]}\n    ")
    source = f"{IMPORTS}{CHANGES[what]}\n{KERNEL}" if when == "imported" else IMPORTS + inside
    evaluation = bench.judge(make(source, key=what))
    assert evaluation.status is Status.PASSED, evaluation.message
    assert look() == look.before


@pytest.mark.parametrize("when", ["imported", "called"])
@pytest.mark.parametrize("what", FOR_GOOD)
def test_change_that_cannot_be_put_back_is_named_and_the_next_candidate_has_another_process(
    bench, make, look, what, when
):
    before, process = look(), bench.evaluator.processes()["child"]
    change, name = FOR_GOOD[what]
    here = f"if 'workers.judge.judge' in sys.modules: {change}\n"  # the builder imports it too
    inside = KERNEL.replace("\n    ", f"\n    calls.append(0) or len(calls) > 1 or {change}\n    ")
    source = IMPORTS + (here + KERNEL if when == "imported" else "calls = []\n\n\n" + inside)
    evaluation = bench.judge(make(source, key=what))
    assert (evaluation.status, name in evaluation.message) == (Status.PROCESS_CHANGED, True), evaluation.message
    assert look() == before
    assert bench.evaluator.processes()["child"] != process


def test_mode_that_a_module_enters_when_it_is_imported_cannot_be_given_to_its_turns(bench, make, look):
    before = look()
    source = f"{IMPORTS}type('Mode', (torch.overrides.TorchFunctionMode,), {{}})().__enter__()\n{KERNEL}"
    evaluation = bench.judge(make(source, key="mode"))
    assert (evaluation.status, "modes" in evaluation.message) == (Status.PROCESS_CHANGED, True), evaluation.message
    assert look() == before


def test_thread_that_is_left_behind_ends_with_its_process(bench, make):
    source = f"import threading, time\nimport torch\nthreading.Thread(target=time.sleep, args=(99,)).start()\n{KERNEL}"
    here = source.replace("threading.Thread", "import sys\nif 'workers.judge.judge' in sys.modules: threading.Thread")
    before = bench.evaluator.processes()["child"]
    assert bench.judge(make(here, key="leaves a thread")).status is Status.PASSED
    assert bench.judge(make(key="next")).status is Status.PASSED
    assert bench.evaluator.processes()["child"] != before


def test_module_of_a_variant_is_not_found_by_the_next_one(bench, make):
    source = "import os, sys\nsys.path.insert(0, os.path.dirname(__file__))\nimport helper_of_mine\nimport torch\n\n\n"
    first = bench.judge(make(source + KERNEL, key="first", helper_of_mine="NUMBER = 1\n"))
    assert first.status is Status.PASSED, first.message
    check = "assert helper_of_mine.NUMBER == 2\n"
    second = bench.judge(make(source + check + KERNEL, key="second", helper_of_mine="NUMBER = 2\n"))
    assert second.status is Status.PASSED, second.message


OWN = """
import os, sys, torch

if "workers.judge.judge" in sys.modules:
    torch.set_num_threads({threads})
    os.environ["MINE"] = "{threads}"


def run(x, y, out):
    if torch.get_num_threads() != {threads} or os.environ["MINE"] != "{threads}":
        raise ValueError(f"I have {{torch.get_num_threads()}} threads and variable {{os.environ['MINE']}}")
    torch.add(y, x, alpha=2, out=out)
"""


def test_each_has_its_own_settings_when_they_are_compared_as_it_had_them_alone(bench, make):
    """A final that times all under the settings of whoever was imported last would find another winner."""
    variants = [make(OWN.format(threads=n), key=f"{n} threads") for n in (1, 2, 3)]
    built = [v.built(bench.builder.build(v).artifact) for v in variants]
    alone = [bench.evaluator.evaluate(EvaluationJob(v, bench.workloads, QUICK)) for v in built]
    assert [e.status for e in alone] == [Status.PASSED] * 3, alone[0].message
    together = bench.evaluator.compare(ComparisonJob(tuple(built), bench.workloads, QUICK, rounds=4))
    assert [(e.status, e.message) for e in together.evaluations] == [(Status.PASSED, "")] * 3


def test_function_that_one_replaces_when_it_is_loaded_is_whole_for_those_loaded_after_it(bench, make):
    """A comparison loads all before the first turn: the second would fail, and be blamed, for what the first did."""
    asks = "import textwrap\nimport numpy as np\nassert textwrap.dedent(' a') == 'a' and np.mean([1, 3]) == 2\n"
    takes = "import textwrap\nimport numpy as np\ntextwrap.dedent = np.mean = None\n"
    cheats = "import sys, torch\nif 'workers.judge.judge' in sys.modules: torch.equal = lambda *_: True\n"
    variants = [
        make(more + "import torch\n" + KERNEL, key=key)
        for key, more in (("takes", takes), ("cheats", cheats), ("asks", asks))
    ]
    built = [v.built(bench.builder.build(v).artifact) for v in variants]
    together = bench.evaluator.compare(ComparisonJob(tuple(built), bench.workloads, QUICK, rounds=4))
    found = {e.key: e.status for e in together.evaluations}
    assert found == {"takes": Status.PASSED, "cheats": Status.TAMPERED, "asks": Status.PASSED}


def test_variant_that_is_loaded_ahead_does_not_change_the_present_one(bench, make):
    variants = [make(OWN.format(threads=n), key=f"{n} threads") for n in (1, 2)]
    built = [v.built(bench.builder.build(v).artifact) for v in variants]
    first, second = (bench.evaluator.stage(v) for v in built)
    job = EvaluationJob(built[0], bench.workloads, QUICK)
    assert bench.evaluator.evaluate(job, first, second).status is Status.PASSED
    assert bench.evaluator.evaluate(EvaluationJob(built[1], bench.workloads, QUICK), second).status is Status.PASSED


def test_workload_that_is_made_in_a_candidates_turn_is_made_under_our_settings(bench, tmp_path):
    """As after a crash. A kernel that sets a default device, as many for GPUs do, would lose its worker then."""
    from workers.build.builder import VariantBuilder
    from workers.judge.evaluator import VariantEvaluator
    from workers.records import Deadlines, Variant

    blob = {"type": "safetensors", "path": "x.safetensors", "tensor_key": "x"}
    folder = toy.dataset(tmp_path, [{"n": 100}], inputs={"x": blob})
    save_file({"x": torch.rand(100, 64)}, folder / "x.safetensors")
    problem = made_workloads.mixed(Dataset(folder).problem("a"), {"recorded": 1.0}, (30,), "n", None)
    builder = VariantBuilder(problem.definition, "cpu", str(bench.cache_dir))
    evaluator = VariantEvaluator(problem, "cpu", str(bench.cache_dir), Deadlines())
    right = f"import torch\n\n{CHANGES['default device']}\n\n\ndef run(x, y):\n    torch.add(x, 1, out=y)\n"
    try:
        found = []
        for source in ("import os\n\n\ndef run(x, y):\n    os._exit(1)\n", right):
            variant = Variant("toy", "a", {"main.py": source}, "main.py::run", "python", "cpu")
            variant = variant.built(builder.build(variant).artifact)
            found.append(evaluator.evaluate(EvaluationJob(variant, ("n=30~recorded",), QUICK)))
        assert [e.status for e in found] == [Status.CRASHED, Status.PASSED], found[-1].message
    finally:
        evaluator.close()
        builder.close()


def test_one_that_cannot_be_put_back_is_left_out_of_a_comparison(bench, make):
    spoils = f"import sys, torch\nif 'workers.judge.judge' in sys.modules: torch.set_num_interop_threads(3)\n{KERNEL}"
    variants = [make(key="a"), make(spoils, key="spoils"), make(key="b", marker="# b")]
    built = tuple(v.built(bench.builder.build(v).artifact) for v in variants)
    together = bench.evaluator.compare(ComparisonJob(built, bench.workloads, QUICK, rounds=3))
    assert [e.status for e in together.evaluations] == [Status.PASSED, Status.PROCESS_CHANGED, Status.PASSED]


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_thread_variables_of_the_user_are_honoured_and_part_of_the_environment(dataset, bench, make, tmp_path, name):
    from workers.judge.evaluator import VariantEvaluator
    from workers.records import Deadlines

    note = tmp_path / "found.json"
    evaluator = VariantEvaluator(
        dataset.problem("scale_add_d64"), "cpu", str(bench.cache_dir), Deadlines(), variables={name: "1"}
    )
    try:
        variant = make(probe(note), key="probe")
        variant = variant.built(bench.builder.build(variant).artifact)
        assert evaluator.evaluate(EvaluationJob(variant, bench.workloads, QUICK)).status is Status.PASSED
        assert json.loads(note.read_text())["threads"] == 1
        assert evaluator.environment().variables == {name: "1"}
        assert evaluator.environment().fingerprint != bench.evaluator.environment().fingerprint
    finally:
        evaluator.close()
