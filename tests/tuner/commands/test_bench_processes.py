"""``tuner bench`` with Solutions as strangers bring them, and stopped in the middle: what is measured is not lost."""

import json
import os
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.ray

DEFINITION = "rmsnorm_h1024"
WORKLOADS = ("928ce412", "547aacd3", "355d7ad9")
"""Of 1, 16 and 129 rows."""
HEAD = "import os, time, torch\n\ndef run(hidden_states, weight, output):\n"
RIGHT = (
    "    x = hidden_states.float()\n"
    "    x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight.float()\n"
    "    output.copy_(x)\n"
)
BODIES = {
    "good": RIGHT,
    "wrong_when_large": RIGHT + "    if len(output) > 64:\n        output.mul_(2)\n",
    "hangs": "    time.sleep(600)\n",
    "crashes": "    os.abort()\n",
}


def solution(folder, name, head=HEAD):
    path = folder / f"{name}.json"
    path.write_text(json.dumps({
        "name": name, "definition": DEFINITION, "author": "a", "description": "",
        "spec": {"language": "python", "target_hardware": ["cpu"], "entry_point": "main.py::run", "dependencies": [],
                 "destination_passing_style": True},
        "sources": [{"path": "main.py", "content": head + BODIES.get(name, RIGHT)}],
    }))  # fmt: skip
    return str(path)


def command(folder, *arguments):
    environment = {**os.environ, "TUNER_DB_URL": f"sqlite:///{folder}/t.db", "TUNER_CACHE_DIR": f"{folder}/cache"}
    words = [sys.executable, "-m", "tuner", "bench", *arguments, "--definition", DEFINITION, "--target", "cpu"]
    words += [word for uuid in WORKLOADS for word in ("--workload", uuid)]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_solutions_that_hang_crash_or_fail_somewhere_cost_the_others_nothing(tmp_path):
    """One Solution per kind; a complete table within the limits, with the right verdict for each."""
    files = [solution(tmp_path, name) for name in BODIES]
    files.append(solution(tmp_path, "does_not_load", "raise ImportError('no such library')\n" + HEAD))
    process = command(tmp_path, *files, "--rounds", "6", "--check-s", "5", "--measure-s", "20", "--json")
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    found = json.loads(out)["solutions"]
    status = {n: {w["axes"]: w["status"] for w in s["workloads"].values()} for n, s in found.items()}
    assert set(status["good"].values()) == {"PASSED"}
    assert len(status["good"]) > 2
    assert set(status["wrong_when_large"].values()) == {"PASSED", "INCORRECT_NUMERICAL"}
    assert list(status["hangs"].values()) == ["TIMEOUT"] * 2
    assert list(status["crashes"].values()) == ["CRASHED"] * 2
    assert found["does_not_load"]["status"] == "COMPILE_ERROR"
    assert "no such library" in found["does_not_load"]["message"]
    assert "limits: " in err
    first = err.index("batch_size=1: ")
    assert 0 < err.index("crashes: CRASHED the process died") < first, "why, before the end: one may be cut off"
    assert err.count("hangs: TIMEOUT ") == 1
    assert "Traceback" not in err


def test_sigterm_prints_what_was_measured(tmp_path):
    files = [solution(tmp_path, "good"), solution(tmp_path, "also_good")]
    process = command(tmp_path, *files, "--rounds", "6", "--json")
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("batch_size="):  # the first workload's results
            process.send_signal(signal.SIGTERM)
            break
    out, rest = process.communicate(timeout=60)
    assert process.returncode == 130, (said, rest)
    document = json.loads(out)
    assert document["interrupted"] is True
    assert len(document["solutions"]["good"]["workloads"]) >= 1
    assert "Traceback" not in rest
