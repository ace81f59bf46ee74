"""Stored reference outputs: a damaged file is noticed, whatever was damaged, and computed again."""

import random

import pytest

from workers.judge.references import ReferenceStore

torch = pytest.importorskip("torch")


@pytest.fixture
def stored(dataset, tmp_path):
    """A store, the uuid of a workload in it, and the file."""
    problem = dataset.problem("scale_add_d64")
    store, uuid = ReferenceStore(tmp_path, problem, "a processor"), str(problem.workloads[0]["uuid"])
    store.save(uuid, {"digests": [torch.arange(9)], "seen": {"expected": [torch.rand(300, 40)], "wrote": ["x"]}})
    (file,) = tmp_path.glob("*.pt")
    return store, uuid, file


def test_what_was_stored_comes_back(stored):
    store, uuid, _ = stored
    assert store.load(uuid, "cpu")["seen"]["wrote"] == ["x"]
    assert ReferenceStore(stored[2].parent, store._problem, "another").load(uuid, "cpu") is None


@pytest.mark.parametrize("seed", range(60))
def test_damaged_file_is_no_reference(stored, seed, capsys):
    """Also one number in the middle of a tensor, which torch itself reads without a word."""
    store, uuid, file = stored
    rng = random.Random(seed)
    good = file.read_bytes()
    place = rng.choice(
        [rng.randrange(len(good)), len(good) // 2, rng.randrange(2000), len(good) - rng.randrange(1, 900)]
    )
    if seed % 3 == 0:
        file.write_bytes(good[:place])
    else:
        file.write_bytes(good[:place] + bytes([good[place] ^ rng.randrange(1, 256)]) + good[place + 1 :])
    found = store.load(uuid, "cpu")
    if found is None:
        assert "is damaged, it is computed again" in capsys.readouterr().out
        return
    whole = ReferenceStore(file.parent, store._problem, "a processor")
    file.write_bytes(good)
    expected = whole.load(uuid, "cpu")
    assert torch.equal(found["digests"][0], expected["digests"][0]), "a byte that nothing depends on"
    assert torch.equal(found["seen"]["expected"][0], expected["seen"]["expected"][0])
    assert found["seen"]["wrote"] == expected["seen"]["wrote"]
