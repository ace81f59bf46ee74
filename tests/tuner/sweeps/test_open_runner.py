"""What is said where workers do not start: the definition's fault, if it is that, and not how their process ended."""

import json

import pytest

from tests.tuner import toy
from tuner.settings import SweepSettings
from tuner.sweeps.setup import open_runner, resolve
from workers.cluster import ray_runner
from workers.errors import DatasetError, WorkerError


class NoWorkers:
    """In place of the Ray workers: they are there, and then die."""

    def __init__(self, *_, **__):
        pass

    def close(self):
        pass


@pytest.mark.parametrize(
    ("dtype", "error", "said"),
    [
        ("float32", WorkerError, "^signal 9$"),
        (None, DatasetError, "breaks flashinfer-bench's schema at inputs.x.dtype"),
    ],
)
def test_a_definition_that_the_workers_cannot_take_is_named(tmp_path, monkeypatch, dtype, error, said):
    monkeypatch.setattr(ray_runner, "RayRunner", NoWorkers)
    root = toy.dataset(tmp_path / "d", [{"n": 8}])
    path = root / "definitions" / "toy" / "a.json"
    document = json.loads(path.read_text())
    document["inputs"]["x"]["dtype"] = dtype
    path.write_text(json.dumps(document))
    space = toy.kernel(tmp_path / "k")
    setup = resolve(SweepSettings(dataset=root, space=str(space), target="cpu", db="sqlite://"))
    with pytest.raises(error, match=said), open_runner(setup):
        raise WorkerError("signal 9")
