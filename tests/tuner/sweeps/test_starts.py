"""What a sweep looks at right after the default."""

import yaml

from db.records import RelatedConfig
from db.store import Store
from tuner.search.related_sweeps import _is_for, suggested
from tuner.settings import load
from tuner.sweeps.regimes import split
from tuner.sweeps.setup import resolve


def test_starts_of_a_space_come_early_in_the_regimes_they_are_for(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "main.py").write_text("def run(hidden_states, weight, output):\n    pass\n")
    description = {
        "op_type": "rmsnorm",
        "targets": ["cpu"],
        "entry_point": "main.py::run",
        "size_axis": "batch_size",
        "parameters": {"rows": {"values": [1, 2, 4, 8]}},
        "default": {"rows": 1},
        "starts": [{"config": {"rows": 8}, "sizes": [300, None]}, {"config": {"rows": 2}}],
    }
    (folder / "space.yaml").write_text(yaml.safe_dump(description))
    named = {"space": str(folder), "definition": "rmsnorm_h1024", "target": "cpu", "regimes": (16, 256)}
    setup = resolve(load({**named, "db": f"sqlite:///{tmp_path / 'results.db'}"}))
    space = setup.space()
    sizes = setup.sizes(space.size_axis)
    regimes = tuple(split(sizes, setup.settings.regimes))
    store = Store.open(setup.settings.db)
    try:
        found = suggested(
            store, space, "rmsnorm_h1024", "any CPU", {r.name: [sizes[uuid] for uuid in r.workloads] for r in regimes}
        )
    finally:
        store.close()
    largest = {r.name: max(sizes[uuid] for uuid in r.workloads) for r in regimes}
    assert min(largest.values()) < 300 <= max(largest.values()), "the packaged workloads have both kinds"
    for name, size in largest.items():
        assert found[name] == (({"rows": 8}, {"rows": 2}) if size >= 300 else ({"rows": 2},))


def test_winners_of_parts_of_a_regime_are_starts_for_all_of_it():
    """They have names of their own, and would never be tried again."""
    regimes = {"0-512": [8, 300], "513-2048": [901, 2048], "2049+": [4096]}

    def takers(name: str, low: int | None, high: int | None) -> list[str]:
        won = RelatedConfig({}, "other", "GPU", "sm_90a", name, low, high, 1.0, 1)
        return [regime for regime, sizes in regimes.items() if _is_for(won, regime, sizes, regimes)]

    assert takers("513-1358", 513, 1358) == takers("1359-2048", 1359, 2048) == ["513-2048"]
    assert takers("1024+", 1024, None) == ["513-2048", "2049+"]
    assert takers("513-2048", 400, 5000) == ["513-2048"], "its bounds moved, its name says what it was searched for"
    assert takers("all", None, None) == []
