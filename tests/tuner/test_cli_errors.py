"""Every kind of bad input ends in one clear line and the right exit code, and leaves nothing behind.

The real command runs in a process of its own: what is tested is what a person sees.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

USAGE, NOTHING, ENVIRONMENT = 2, 3, 4
MOE = "moe_fp8_block_scale_ds_routing_topk4_ng4_kg2_e8_h512_i256"


def tuner(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TUNER_", "FIB_", "RAY_"))}
    return subprocess.run(
        [sys.executable, "-m", "tuner", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**clean, "TUNER_DB_URL": f"sqlite:///{cwd}/results.db", **environment},
        timeout=120,
        check=False,
    )


def broken_dataset(folder: Path) -> Path:
    (folder / "definitions" / "moe").mkdir(parents=True)
    (folder / "definitions" / "moe" / "bad.json").write_text('{"name": "x",\n "axes": }')
    return folder


def other_op(folder: Path) -> Path:
    """The packaged MoE, but for one line: the weights of the chosen experts are not normalised."""
    packaged = Path(__file__).parents[2] / "search_spaces" / "dataset"
    shutil.copytree(packaged, folder)
    (definition,) = folder.glob("definitions/moe/*.json")
    document = json.loads(definition.read_text(encoding="utf-8"))
    normalised = "weights / (weights.sum(dim=1, keepdim=True) + 1e-20) * scaling_factor"
    assert normalised in document["reference"]
    document["reference"] = document["reference"].replace(normalised, "weights * scaling_factor")
    definition.write_text(json.dumps(document), encoding="utf-8")
    return folder


CASES = {
    "unknown definition": (["sweep", "--definition", "moe_fp9"], USAGE, ["moe_fp9", "definition"]),
    "unknown workload": (["sweep", "--workload", "zzz"], USAGE, ["zzz", "workload"]),
    "unknown space": (["sweep", "--space", "no_such"], USAGE, ["no_such", "moe_fp8_cpu"]),
    "space for another op": (["sweep", "--space", "moe_fp8_cpu", "--definition", "{gemm}"], USAGE, ["cannot solve"]),
    "space without the target": (["sweep", "--space", "moe_fp8_cpu", "--target", "sm_90a"], USAGE, ["sm_90a", "cpu"]),
    "unknown target": (["sweep", "--target", "tpu"], USAGE, ["tpu", "sm_90a"]),
    "unknown sampler": (["sweep", "--sampler", "magic"], USAGE, ["magic", "random"]),
    "a sweep that is no number": (["report", "abc"], USAGE, ["sweep", "'abc'", "integer"]),
    "a budget that is no number": (["sweep", "--budget-s", "1h"], USAGE, ["--budget-s", "'1h'", "number"]),
    "several kinds, no cluster": (
        ["sweep", "--accelerators", "H200,B200"],
        USAGE,
        ["several --accelerators need the --ray-address of a cluster that has them"],
    ),
    "bad regimes": (["sweep", "--regimes", "16,8"], USAGE, ["16,8", "rising"]),
    "regimes that are no numbers": (["sweep", "--regimes", "a,b"], USAGE, ["a,b"]),
    "no trials": (["sweep", "--max-trials", "0"], USAGE, ["max_trials", "0"]),
    "no budget": (["sweep", "--budget-s", "-1"], USAGE, ["budget_s", "-1"]),
    "missing dataset": (["sweep", "--dataset", "{tmp}/absent"], USAGE, ["absent", "does not exist"]),
    "broken dataset file": (["sweep", "--dataset", "{broken}"], USAGE, ["bad.json:2", "JSON"]),
    "an op that the space misreads": (
        ["sweep", "--dataset", "{other}", "--target", "cpu"], USAGE,
        ["'moe_fp8_cpu' misreads", "of 32 tokens differ from the reference", "nothing was started"]
    ),
    "unknown flag": (["sweep", "--frobnicate"], USAGE, ["--frobnicate"]),
    "unknown command": (["swep"], USAGE, ["swep"]),
    "unknown setting in file": (["sweep", "--config", "{tmp}/bad.yaml"], USAGE, ["max_trails", "max_trials"]),
    "resume of nothing": (["sweep", "--resume", "41"], NOTHING, ["41"]),
    "status of nothing": (["status", "41"], NOTHING, ["41"]),
    "report of nothing": (["report"], NOTHING, ["no sweep"]),
    "export of nothing": (["export", "--out", "{tmp}/out"], NOTHING, ["no finished sweep"]),
    "best of nothing": (["best", "--definition", MOE, "--axes", "seq_len=7"], NOTHING, [MOE]),
    "bad axes": (["best", "--definition", MOE, "--axes", "seq_len"], USAGE, ["seq_len", "NAME=NUMBER"]),
    "size of 500 digits": (["best", "--definition", MOE, "--axes", "seq_len=" + "9" * 500], USAGE, ["500 digits"]),
    "size given twice": (["best", "--definition", MOE, "--axes", "a=1", "--axes", "a=2"], USAGE, ["a twice"]),
    "sweep of 23 digits": (["status", "9" * 23], NOTHING, ["there is no sweep 999"]),
    "list of 23 digits": (["status", "--limit", "9" * 23], ENVIRONMENT, ["does not fit into 64 bits"]),
    "Solution without a definition": (["bench", "{tmp}/bad.json"], USAGE, ["does not name its definition"]),
    "retries without a sweep": (["sweep", "--retry-failed"], USAGE, ["--retry-failed", "--resume"]),
    "retries on several kinds": (
        ["sweep", "--retry-failed", "--accelerators", "H200,B200", "--ray-address", "127.0.0.1:1"], USAGE,
        ["--retry-failed", "leave --accelerators out"],
    ),
    "explain on a GPU that is not known": (
        ["explain", "--space", "moe_fp8_cute", "--target", "sm_90a", "--hardware", "V100"], USAGE,
        ["figures of V100; known are H100, H200, B200"]
    ),
    **{
        f"{name} of a mistyped database": (
            [*arguments, "--db", "sqlite:///{tmp}/mistyped.db"], ENVIRONMENT, ["there is no database at", "mistyped.db"]
        )
        for name, arguments in {
            "status": ["status"],
            "report": ["report"],
            "best": ["best", "--definition", MOE],
            "export": ["export", "--out", "{tmp}/out"],
            "bench": ["bench", "best"],
            "explain": ["explain", "--space", "moe_fp8_cute", "--target", "sm_90a"],
            "tokens": ["token", "list"],
            "revocation": ["token", "revoke", "abc"],
            "winners": ["verify", "--sweep", "1", "--target", "sm_90a"],
            "study": ["study", "export", "1", "--out", "{tmp}/s.db"],
            "recording": ["study", "record", "1", "--out", "{tmp}/out"],
            "prune": ["db", "prune", "--older-than-days", "1"],
            "resume": ["sweep", "--resume", "41"],
        }.items()
    },
    "unreadable database url": (["status", "--db", "nonsense"], ENVIRONMENT, ["sqlite:///"]),
    "unreachable database": (
        ["status", "--db", "postgresql://u:secret@127.0.0.1:1/x"], ENVIRONMENT, ["127.0.0.1"]
    ),
    "unreachable cluster": (["sweep", "--ray-address", "127.0.0.1:1"], ENVIRONMENT, ["127.0.0.1:1"]),
    "no such gpu": (
        ["sweep", "--target", "sm_90a", "--space", "moe_fp8_cute"], ENVIRONMENT, ["sm_90a", "H200", "--ray-address"]
    ),
    "no such gpu, Blackwell": (
        ["sweep", "--target", "sm_100a", "--space", "moe_fp8_cute"], ENVIRONMENT, ["sm_100a", "B200", "--ray-address"]
    ),
    "unknown Solution": (["bench", "nobody", "--definition", MOE], USAGE, ["nobody"]),
    "missing Solution file": (["bench", "{tmp}/no.json", "--definition", MOE], USAGE, ["no.json"]),
}  # fmt: skip

UNSTARTED = ("no such gpu", "no such gpu, Blackwell", "space without the target")


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case, tmp_path):
    arguments, code, said = CASES[case]
    (tmp_path / "bad.yaml").write_text("max_trails: 3\n")
    (tmp_path / "bad.json").write_text('{"name": 5}')
    packaged = Path(__file__).parents[2] / "search_spaces" / "dataset" / "definitions"
    gemm = json.loads(next(packaged.glob("gemm/*.json")).read_text())["name"]
    named = {"tmp": tmp_path, "gemm": gemm, "broken": broken_dataset(tmp_path / "broken"), "other": ""}
    if "{other}" in arguments:
        named["other"] = other_op(tmp_path / "other")
    done = tuner(*(a.format(**named) for a in arguments), cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("starting workers")]
    assert len(lines) == 1, done.stderr
    assert case not in UNSTARTED or done.stderr.count("\n") == 1, "workers that cannot start are not announced"
    assert lines[0].startswith("tuner: ")
    for text in said:
        assert text in lines[0]
    assert "secret" not in done.stderr
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "tuner-out").exists()
    assert not (tmp_path / "mistyped.db").exists()


def test_importing_tuner_loads_nothing_heavy(tmp_path):
    code = (
        "import sys, tuner, tuner.cli; heavy = {'torch', 'ray', 'cutlass', 'optuna', 'numba', 'flashinfer_bench'}"
        " & set(sys.modules); print(sorted(heavy)); sys.exit(bool(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("command", ["best", "status"])
def test_lookups_load_no_torch_and_no_ray(command, tmp_path):
    arguments = {"best": ["best", "--definition", MOE], "status": ["status"]}[command]
    code = (
        f"import sys; from tuner.cli.app import run; run({arguments!r});"
        "heavy = {'torch', 'ray', 'cutlass', 'optuna', 'numba', 'flashinfer_bench'} & set(sys.modules);"
        "print(sorted(heavy), file=sys.stderr); sys.exit(bool(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, "TUNER_DB_URL": f"sqlite:///{tmp_path}/x.db"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("handler", ["", "signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))"])
def test_what_an_orchestrator_sends_is_an_interruption_at_any_moment(tmp_path, handler):
    """While Ray starts, SIGTERM has a handler of Ray's, which exits."""
    code = (
        "import os, signal, sys, time\n"
        "from tuner.cli import app\n"
        f"def stopped():\n    {handler or 'pass'}\n    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(60)\n"
        "app.app.command('stopped')(stopped)\n"
        "sys.exit(app.run(['stopped']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (130, "tuner: interrupted\n")


def test_no_arguments_shows_help(tmp_path):
    done = tuner(cwd=tmp_path)
    assert done.returncode == 0
    assert "sweep" in done.stdout


def test_json_is_one_document_with_a_schema_version(tmp_path):
    done = tuner("status", "--json", cwd=tmp_path)
    assert json.loads(done.stdout) == {"schema_version": 1, "sweeps": []}
    assert done.stderr == ""


@pytest.mark.parametrize("level", ["trace", "10", "warn ing"])
def test_a_log_level_that_is_none_ends_in_one_line(level, tmp_path):
    done = tuner("status", cwd=tmp_path, TUNER_LOG_LEVEL=level)
    assert (done.returncode, done.stderr.count("\n")) == (USAGE, 1)
    assert f"TUNER_LOG_LEVEL={level!r}" in done.stderr
    assert "warning" in done.stderr
