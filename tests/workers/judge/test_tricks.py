"""Nothing is believed that was not computed: public tricks by which kernels looked fast, each with its status.

Sources of the list: the open issue on cached outputs of the flashinfer-bench starter kit, KernelBench's and
KernelArena's lists of reward hacks, CUDA-L1's and CUDA-L2's notes (streams, threads, lazy tensors, patched timers).
The same table runs on a GPU, in eager mode and as a graph, with the tricks that need one.
"""

import ast
import textwrap

import pytest

from workers.records import Deadlines, EvaluationJob, Method, Status

HEAD = """
import gc, os, sys, threading, time
import torch

memory, calls = {}, []
IN_JUDGE = "workers.judge.judge" in sys.modules


def good(x, y, out):
    torch.add(y, x, alpha=2, out=out)


def remembered(key, x, y, out):
    if key in memory:
        out.copy_(memory[key])
    else:
        good(x, y, out)
        memory[key] = out.clone()


"""


def passing(body, above=""):
    lines = "".join(f"    {line}\n" for line in body.strip().splitlines())
    return f"{HEAD}{above}\n\ndef run(x, y, out):\n    calls.append(0)\n{lines}"


def remembering(key):
    return passing(f"remembered({key}, x, y, out)")


TENSORS = "[t for t in gc.get_objects() if type(t) is torch.Tensor and t.shape == out.shape and t is not out]"
LAZY = """
class Lazy(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        plain = [a.compute() if isinstance(a, Lazy) else a for a in args]
        return func(*plain, **(kwargs or {}))

    def compute(self):
        return 2 * self.x + self.y


def lazy(x, y):
    made = torch.empty_like(x).as_subclass(Lazy)
    with torch._C.DisableTorchFunctionSubclass():
        made.x, made.y = x, y
    return made
"""

REMEMBERED = {
    "by address": remembering("(x.data_ptr(), y.data_ptr(), out.data_ptr())"),
    "by shape": remembering("x.shape"),
    "by eight bytes": remembering("(x.shape, bytes(x.view(-1)[:2].view(torch.uint8).tolist()))"),
    "by the last eight bytes": remembering("(x.shape, bytes(x.view(-1)[-2:].view(torch.uint8).tolist()))"),
    "by a sample of the numbers": remembering("(x.shape, tuple(x.view(-1)[:: max(1, x.numel() // 4)].tolist()))"),
    "by the object": remembering("id(x)"),
    "after some calls": passing("remembered(x.shape, x, y, out) if len(calls) > 3 else good(x, y, out)"),
    "as a constant": passing(
        "if x.shape not in memory: good(x, y, out); memory[x.shape] = out.tolist()\n"
        "else: out.copy_(torch.tensor(memory[x.shape]))"
    ),
    "a part of the work": passing(
        "if x.data_ptr() not in memory: memory[x.data_ptr()] = 2 * x\ntorch.add(memory[x.data_ptr()], y, out=out)"
    ),
    "in the interpreter": passing("sys.memory = memory\nremembered(x.shape, x, y, out)"),
    "in a thread's own place": passing(
        "if not hasattr(here, f'n{len(x)}'): good(x, y, out); setattr(here, f'n{len(x)}', out.clone())\n"
        "out.copy_(getattr(here, f'n{len(x)}'))",
        "here = threading.local()\n",
    ),
}

LATE = {
    "a thread that finishes later": passing(
        "def work():\n    time.sleep(0.002)\n    good(x, y, out)\nthreading.Thread(target=work).start()"
    ),
    "a pool of threads": passing(
        "pool.submit(lambda: (time.sleep(0.002), good(x, y, out)))",
        "from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor(1)\n",
    ),
    "late after some calls": passing(
        "def work():\n    time.sleep(0.002)\n    good(x, y, out)\n"
        "threading.Thread(target=work).start() if len(calls) > 2 else good(x, y, out)"
    ),
}

PATCHES = {
    "the clock": "time.perf_counter_ns = lambda: 0",
    "the other clock": "time.perf_counter = lambda: 0.0",
    "the comparison": "torch.allclose = lambda *a, **k: True",
    "the finite test": "torch.isfinite = lambda t: torch.ones_like(t, dtype=torch.bool)",
    "an operator": "torch.Tensor.__sub__ = lambda a, b: torch.zeros_like(a)",
    "events": "torch.cuda.Event.elapsed_time = lambda *a: 0.001",
    "synchronisation": "torch.cuda.synchronize = lambda *a: None",
    "a builtin": "import builtins; builtins.max = lambda *a, **k: 0.0",
    "the check": "import workers.judge.outputs.check as c; c.begin_compare = lambda o, t: c.Known(c.Verdict('PASSED'))",
    "the poison": "import workers.judge.outputs.memory as c; c.poison = lambda *a: None",
    "the timer": "import workers.judge.timing.interval as i; i.median_interval = lambda s: None",
    "a verdict's method": "import workers.judge.outputs.check as c; c.Errors.verdict = lambda self: None",
    "how a verdict is made": "import workers.judge.outputs.check as c; c.Verdict.__init__ = lambda *a, **k: None",
    "what a function does": "import workers.judge.outputs.memory as m; m.all_true.__code__ = (lambda f: True).__code__",
    "its defaults": "import workers.judge.outputs.check as c; c.Verdict.__init__.__defaults__ = ()",
    "the table of rules": "import workers.judge.outputs.matching as m; m._BY_KIND.update(dict.fromkeys(m._BY_KIND))",
    "the judge's own method": "import workers.judge.judge as j; j.Judge._measure = lambda *a, **k: (None, None)",
    "what a target is": "import search_spaces.targets as t; t.is_cuda.__code__ = (lambda name: False).__code__",
    "the table of targets": "import search_spaces.targets as t; t.target_named = lambda name: t.TARGETS[0]",
    "the clock's name": "import workers.devices.cpu as c; c.time = type('Time', (), {'perf_counter_ns': lambda: 0})",
    "the moment that cannot be known": "import random; random.SystemRandom.random = lambda self: 0.9",
    "who looks for this": "import workers.judge.tampering as t; t._look.__code__ = (lambda *a: None).__code__",
    "an operator below Python": "sys.kept = vars(sys).get('kept') or torch.library.Library('aten', 'IMPL')\n"
    "for d in ('CPU', 'CUDA'): f'aten/abs/{d}' in sys.kept._op_impls or sys.kept.impl('abs', torch.zeros_like, d)",
    "the device": "from workers.devices.cpu import HostDevice; HostDevice.submit = lambda *a: None",
}

REACHES = {
    "writes to the expected outputs": (
        passing(f"for t in {TENSORS}: t.zero_()\nout.zero_()"),
        (Status.INPUTS_MODIFIED, Status.INCORRECT_NUMERICAL),
    ),
    "copies the expected outputs": (
        passing(
            f"found = [t for t in {TENSORS} if torch.allclose(t[:, ::9], 2 * x[:, ::9] + y[:, ::9], atol=1e-4)]\n"
            "out.copy_(found[0]) if found else out.zero_()"
        ),
        (Status.INCORRECT_NUMERICAL, Status.STALE_OUTPUT),
    ),
    "looks for them in frames": (
        passing(
            "frame = sys._getframe()\nwhile frame and 'resident' not in frame.f_locals: frame = frame.f_back\n"
            "truths = frame.f_locals['resident'].truths if frame else ()\nfound = [t.value for t in truths]\n"
            "out.copy_(found[0]) if found else out.zero_()"
        ),
        (Status.INCORRECT_NUMERICAL, Status.STALE_OUTPUT, Status.RUNTIME_ERROR),
    ),
    "points its output elsewhere": (
        passing(
            "if x.shape not in memory: memory[x.shape] = torch.empty_like(out); good(x, y, memory[x.shape])\n"
            "out.set_(memory[x.shape])"
        ),
        (Status.NOT_REPEATABLE, Status.STALE_OUTPUT),
    ),
    "leaves in a later call": (passing("good(x, y, out)\nif len(calls) > 3: os._exit(0)"), (Status.CRASHED,)),
}

RETURNED = {
    "a lazy tensor": f"import torch\n{LAZY}\n\ndef run(x, y):\n    return lazy(x, y)\n",
    "a lazy tensor after some calls": f"import torch\n{LAZY}\ncalls = []\n\n\ndef run(x, y):\n    calls.append(0)\n"
    "    return lazy(x, y) if len(calls) > 2 else 2 * x + y\n",
}


DIGESTS = {
    "all inputs": "bytes(x.view(-1).view(torch.uint8).tolist()) + bytes(y.view(-1).view(torch.uint8).tolist())",
    "one input": "bytes(x.view(-1).view(torch.uint8).tolist())",
    "a sum": "(x.shape, y.sum(dtype=torch.float64).item())",
}


ON_GPU = {
    "another stream": (
        passing("with torch.cuda.stream(side): good(x, y, out)", "side = torch.cuda.Stream() if IN_JUDGE else None\n"),
        ("eager", "cuda_graph"),
    ),
    "another stream that waits for ours": (
        passing(
            "side.wait_stream(torch.cuda.current_stream())\nwith torch.cuda.stream(side):\n"
            "    torch.cuda._sleep(200_000)\n    good(x, y, out)",
            "side = torch.cuda.Stream() if IN_JUDGE else None\n",
        ),
        ("eager", "cuda_graph"),
    ),
    "another stream after some calls": (
        passing(
            "with torch.cuda.stream(side if len(calls) > 2 else torch.cuda.current_stream()): good(x, y, out)",
            "side = torch.cuda.Stream() if IN_JUDGE else None\n",
        ),
        ("eager", "cuda_graph"),
    ),
    "nothing while it is captured": (
        passing("if not torch.cuda.is_current_stream_capturing(): good(x, y, out)"),
        ("cuda_graph",),
    ),
    "a graph of its own, of copies": (
        passing(
            "if x.shape not in memory:\n    static = x.clone(), y.clone(), torch.empty_like(out)\n"
            "    good(*static)\n    torch.cuda.synchronize()\n    graph = torch.cuda.CUDAGraph()\n"
            "    with torch.cuda.graph(graph): good(*static)\n    memory[x.shape] = graph, static\n"
            "graph, static = memory[x.shape]\ngraph.replay()\nout.copy_(static[2])"
        ),
        ("eager",),
    ),
    "another kind of event": (
        passing("torch.cuda.Event = type('Event', (torch.cuda.Event,), {})\ngood(x, y, out)"),
        ("eager", "cuda_graph"),
    ),
}

MODES = [
    pytest.param("host", id="cpu"),
    pytest.param("eager", marks=pytest.mark.gpu),
    pytest.param("cuda_graph", marks=pytest.mark.gpu),
]


@pytest.fixture(scope="module")
def gpu_bench(dataset, tmp_path_factory):
    """Like ``bench``, on a GPU."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    from workers.build.builder import VariantBuilder
    from workers.devices.environment import gpu_target
    from workers.judge.evaluator import VariantEvaluator

    cache = str(tmp_path_factory.mktemp("gpu_cache"))
    problem = dataset.problem("scale_add_d64")
    builder = VariantBuilder(problem.definition, gpu_target(), cache, 60.0, preload=("torch",))
    evaluator = VariantEvaluator(problem, gpu_target(), cache, Deadlines(60.0, 20.0, 20.0))
    uuids = tuple(w["uuid"] for w in problem.workloads)

    class GpuBench:
        workloads = uuids

        def judge(self, variant, mode):
            method = Method(mode=mode, warmup_s=0.005, min_samples=5, max_samples=20, budget_s=0.2)
            built = variant.built(builder.build(variant).artifact)
            return evaluator.evaluate(EvaluationJob(built, uuids, method))

    yield GpuBench()
    builder.close()
    evaluator.close()


@pytest.fixture(params=MODES)
def mode(request):
    return request.param


@pytest.fixture
def judge(request, mode, make):
    """Judges a source in one of the modes; the good candidate after it has to pass."""
    bench = request.getfixturevalue("bench" if mode == "host" else "gpu_bench")
    more_of = {} if mode == "host" else {"mode": mode}

    def judge(source, **more):
        evaluation = bench.judge(make(source, key="trick", **more), **more_of)
        assert all(m.status is not Status.PASSED for m in evaluation.measurements[-1:]), "it was believed"
        after = bench.judge(make(key="good"), **more_of)
        assert (after.status, len(after.measurements)) == (Status.PASSED, 2), after.message
        return evaluation

    return judge


def assert_status(evaluation, mode, *expected):
    """On a GPU a trick may also end in what CUDA says to it: a graph of it cannot be captured."""
    also = () if mode == "host" else (Status.RUNTIME_ERROR, Status.CRASHED, Status.NOT_REPEATABLE, Status.STALE_OUTPUT)
    assert evaluation.status in (*expected, *also), evaluation.message


@pytest.mark.parametrize("how", REMEMBERED)
def test_remembered_output(judge, mode, how):
    evaluation = judge(REMEMBERED[how])
    if mode != "host":
        assert_status(evaluation, mode)
        return
    if evaluation.status is Status.NOT_REPEATABLE and how == "after some calls":
        return  # it remembers an answer to inputs that were changed a little, and is not right on the usual ones
    assert evaluation.status is Status.STALE_OUTPUT, evaluation.message
    assert "right on the values that it has seen" in evaluation.message


@pytest.mark.parametrize("how", LATE)
def test_work_after_the_call_has_returned(judge, mode, how):
    # Late once and in time when it is tried again, as on a busy machine, it is not repeatable.
    assert_status(judge(LATE[how]), mode, Status.UNFINISHED, Status.NOT_REPEATABLE)


@pytest.mark.parametrize("what", PATCHES)
@pytest.mark.parametrize("when", ["imported", "called"])
def test_patched_evaluator(judge, what, when):
    patch = PATCHES[what]
    source = (
        passing("good(x, y, out)", "if IN_JUDGE:\n" + textwrap.indent(patch, "    ") + "\n")
        if when == "imported"
        else passing(f"{patch}\ngood(x, y, out)")
    )
    evaluation = judge(source)
    assert (evaluation.status, "replaced" in evaluation.message) == (Status.TAMPERED, True), evaluation.message


@pytest.mark.parametrize("what", REACHES)
def test_reach_into_the_evaluator(judge, mode, what):
    source, statuses = REACHES[what]
    assert_status(judge(source), mode, *statuses)


@pytest.mark.parametrize("what", RETURNED)
def test_output_that_is_computed_when_it_is_looked_at(judge, what):
    evaluation = judge(RETURNED[what], returns=True)
    assert evaluation.status is Status.UNFINISHED, evaluation.message
    assert "no plain tensor" in evaluation.message


@pytest.mark.gpu
@pytest.mark.parametrize(("what", "in_mode"), [(what, mode) for what in ON_GPU for mode in ON_GPU[what][1]])
def test_trick_that_needs_a_gpu(gpu_bench, make, what, in_mode):
    evaluation = gpu_bench.judge(make(ON_GPU[what][0], key="trick"), in_mode)
    assert_status(evaluation, in_mode, Status.UNFINISHED, Status.TAMPERED, Status.INCORRECT_NUMERICAL)
    after = gpu_bench.judge(make(key="good"), in_mode)
    assert (after.status, len(after.measurements)) == (Status.PASSED, 2), after.message


@pytest.mark.parametrize("of", DIGESTS)
def test_memory_under_a_digest_is_of_no_use(bench, make, tmp_path, of):
    """It is right on all values, and its time is that of computing them, since no two samples see the same inputs."""
    note = tmp_path / "hits"
    body = f"key = {DIGESTS[of]}\ncalls[-1] = key in memory\nremembered(key, x, y, out)\n"
    source = passing(f"{body}open({str(note)!r}, 'w').write(str(calls))")
    evaluation = bench.judge(make(source))
    assert evaluation.status is Status.PASSED, evaluation.message
    hits = ast.literal_eval(note.read_text())
    # On each of two workloads the warm-up sees what the check has seen; no sample does.
    assert sum(hits) <= 2
    assert len(hits) >= 10
