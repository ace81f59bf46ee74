"""``tuner explain``: predictions beside measurements of the same config on the same GPU model."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from db.store import Store
from search_spaces.dataset import PATH
from search_spaces.parameters import SpaceError
from search_spaces.space import hash_of
from tuner.errors import NothingFoundError, UsageError
from tuner.prediction.explain import explain
from tuner.settings import load
from workers.devices.environment import own_hardware
from workers.devices.hardware import hardware_of
from workers.fib.dataset import Dataset

GEMM = "gemm_n512_k1024"
MODEL = """
def predict(config, features, hardware):
    return {"load": 1.0, "multiply": 100.0 / config["tile"] * config["extra"]}
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    space = {
        "name": "tiles",
        "definition": GEMM,
        "targets": ["sm_90a"],
        "entry_point": "main.py::run",
        "parameters": {"tile": {"values": [8, 16]}, "extra": {"values": [1, 2]}},
        "constraints": [{"expression": "tile * extra < 32", "reason": "too much"}],
        "default": {"tile": 8, "extra": 1},
    }
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
    (tmp_path / "main.py").write_text("def run(a, b, c):\n    pass\n")
    (tmp_path / "model.py").write_text(MODEL)
    return tmp_path


@pytest.fixture
def database(tmp_path, scene) -> str:
    """A sweep from before there was ``extra``, with a measurement of tile 16 on an H100 and none of tile 8."""
    url = f"sqlite:///{tmp_path / 'tuner.db'}"
    workloads = {w["uuid"]: w["axes"] for w in Dataset(PATH).workloads(GEMM)}
    with Store.open(url) as store:
        here = scene(store, definition=GEMM, axes=workloads)
        sweep = here.sweep()
        first = next(iter(workloads))
        record = here.measurement(first, median_us=8.0, low_us=7.5, high_us=8.5)
        store.trials.commit(
            here.trial(sweep, 0, config={"tile": 16}, config_hash=hash_of({"tile": 16}), measurements=(record,))
        )
    return url


def explained(folder, database, text: str = "default", hardware: str | None = None) -> dict:
    with Store.open(database) as store:
        settings = load({"space": str(folder), "target": "sm_90a", "db": database})
        return explain(store, settings, text, hardware).document()


def test_a_tried_config_is_shown_beside_what_it_took_before_it_had_all_parameters(folder, database):
    found = explained(folder, database, '{"tile": 16}')
    assert (found["hardware"], found["forecast"]) == ("H100", False)
    assert found["config"] == {"tile": 16, "extra": 1}
    assert all(w["predicted_us"] == 1.0 + 100.0 / 16 for w in found["workloads"])
    assert [k["name"] for k in found["workloads"][0]["kernels"]] == ["load", "multiply"]
    assert sorted(w["measured_us"] or 0.0 for w in found["workloads"])[-1] == 8.0
    assert sum(w["measured_us"] is not None for w in found["workloads"]) == 1


@pytest.mark.parametrize("arguments", [("default",), ('{"tile": 16, "extra": 1}', "NVIDIA H200")])
def test_another_config_or_another_gpu_has_no_measurement(folder, database, arguments):
    found = explained(folder, database, *arguments)
    assert {w["measured_us"] for w in found["workloads"]} == {None}


def test_a_config_is_found_by_the_digits_of_its_hash(folder, database):
    found = explained(folder, database, hash_of({"tile": 16, "extra": 1})[:6])
    assert found["config"] == {"tile": 16, "extra": 1}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"tile": 9}', "tile"),
        ('{"tile": 16, "extra": 2}', "too much"),
        ("{", "is not JSON"),
        ("beef", "digits of the hash"),
    ],
)
def test_what_is_no_config_is_one_line(folder, database, text, why):
    with pytest.raises((UsageError, SpaceError), match=why) as caught:
        explained(folder, database, text)
    assert len(str(caught.value).splitlines()) == 1


def test_of_several_broken_rules_the_one_on_what_was_changed_is_named(folder, database):
    """Not the first one of the file, which reads everything."""
    space = yaml.safe_load((folder / "space.yaml").read_text())
    space["parameters"]["other"] = [1, 2]
    space["constraints"] = [
        {"expression": "tile * extra * other < 16", "reason": "all together"},
        {"expression": "tile * extra < 16", "reason": "tiles alone"},
        {"expression": "extra < 2", "reason": "no extra"},
    ]
    (folder / "space.yaml").write_text(yaml.safe_dump(space | {"default": {"tile": 8, "extra": 1, "other": 1}}))
    for text, why in (('{"extra": 2}', "no extra"), ('{"tile": 16}', "tiles alone"), ('{"other": 2}', "all together")):
        with pytest.raises(SpaceError, match=f"not valid: {why}$"):
            explained(folder, database, text)


def test_a_gpu_without_figures_and_a_space_without_a_model_say_so(folder, database):
    with pytest.raises(UsageError, match="no figures of Some GPU"):
        explained(folder, database, hardware="Some GPU")
    (folder / "model.py").unlink()
    with pytest.raises(NothingFoundError, match="has no model"):
        explained(folder, database)


def test_the_command_prints_the_document(folder, database):
    command = [sys.executable, "-m", "tuner", "explain", "--space", str(folder), "--db", database]
    done = subprocess.run([*command, "--target", "sm_90a", "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["workloads"][0]["kernels"][0]["name"] == "load"
    text = subprocess.run([*command, "--target", "sm_90a"], capture_output=True, text=True, check=True).stdout
    assert "multiply" in text
    assert "H100 (model)" in text


def test_hardware_is_named_as_everywhere(folder, database):
    """``--hardware auto`` is this machine's, and upper and lower case are one."""
    assert explained(folder, database, hardware="nvidia h200")["hardware"] == "H200"
    here = own_hardware()
    if hardware_of(here) is None:
        with pytest.raises(UsageError, match=f"no figures of {re.escape(here)}"):
            explained(folder, database, hardware="auto")
    else:
        assert explained(folder, database, hardware="auto") == explained(folder, database, hardware=here)
