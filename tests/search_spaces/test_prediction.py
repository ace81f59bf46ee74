"""What a model beside a space.yaml must be to count, and what a prediction adds up to."""

from __future__ import annotations

import pytest
import yaml

from search_spaces.directory import DirectoryFamily
from search_spaces.prediction.file_model import model_beside
from search_spaces.prediction.model import (
    Hardware,
    KernelPrediction,
    Prediction,
    WorkloadFeatures,
)
from workers.devices.hardware import hardware_of

DEFINITION = {"name": "gemm", "op_type": "gemm", "axes": {"M": {"type": "var"}, "N": {"type": "const", "value": 512}}}
SPACE = {
    "definition": "gemm",
    "targets": ["cpu"],
    "entry_point": "main.py::run",
    "parameters": {"tile": {"values": [8, 16, 32]}},
    "default": {"tile": 8},
}
MODEL = "def predict(config, features, hardware):\n    return {'main': 100.0 / config['tile'] + features.axes['M']}\n"


def space_with(tmp_path, model: str):
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    (tmp_path / "main.py").write_text("def run(a, b, c):\n    pass\n")
    (tmp_path / "model.py").write_text(model)
    return DirectoryFamily(tmp_path).space(DEFINITION, "cpu")


def h200() -> Hardware:
    found = hardware_of("NVIDIA H200")
    assert found is not None
    return found


def test_a_model_beside_the_space_predicts_and_is_no_source(tmp_path):
    space = space_with(tmp_path, MODEL)
    assert space.model is not None
    said = space.model.predict({"tile": 16}, WorkloadFeatures({"M": 3}), h200())
    assert said.us == 100.0 / 16 + 3
    assert list(space.sources) == ["main.py"]


def test_a_kernels_own_model_py_stays_a_source(tmp_path):
    space = space_with(tmp_path, "def predict(x):\n    return x\n")
    assert space.model is None
    assert sorted(space.sources) == ["main.py", "model.py"]


@pytest.mark.parametrize("text", ["def predict(config, features", "predict = 3\n", ""])
def test_what_is_no_model_is_none(tmp_path, text):
    (tmp_path / "model.py").write_text(text)
    assert model_beside(tmp_path) is None


def test_a_model_is_not_run_before_it_is_asked(tmp_path):
    space = space_with(tmp_path, "raise RuntimeError('ran')\n" + MODEL)
    assert space.model is not None
    with pytest.raises(RuntimeError, match="ran"):
        space.model.predict({"tile": 8}, WorkloadFeatures({"M": 1}), h200())


def test_a_prediction_adds_up_and_names_what_bounds_its_longest_kernel():
    small = KernelPrediction("small", 2.0, {"launch": 1.5})
    large = KernelPrediction("large", 10.0, {"hbm": 8.0, "tensor core": 9.0})
    whole = Prediction((small, large), fixed_us=3.0)
    assert whole.us == 15.0
    assert whole.bound == "tensor core"
    assert whole.resources_us == {"launch": 1.5, "hbm": 8.0, "tensor core": 9.0}
    assert whole.bound_us == 10.5
    assert Prediction(()).bound == "launch"
