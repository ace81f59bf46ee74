"""What a sweep looks at right after the default."""

import yaml

from db.store import Store
from tuner.search.related_sweeps import suggested
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
