"""The builds' benchmark reads a sweep's database and counts what the trees made of it."""

import gzip
import sqlite3

from benchmarks.builds import recorded_configs, summary


def test_configs_come_once_in_the_order_of_their_trials(tmp_path):
    path = tmp_path / "sweep.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE variant (id INTEGER, config TEXT)")
        database.execute("CREATE TABLE trial (number INTEGER, variant_id INTEGER)")
        database.executemany("INSERT INTO variant VALUES (?, ?)", [(1, '{"a": 1}'), (2, '{"a": 2}')])
        database.executemany("INSERT INTO trial VALUES (?, ?)", [(0, 2), (1, 1), (2, 2)])
    packed = tmp_path / "sweep.db.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert list(recorded_configs(path)) == list(recorded_configs(packed)) == [{"a": 2}, {"a": 1}]


def test_only_what_all_trees_could_build_counts():
    built = {"status": "BUILT", "cpu_s": 1.0, "wall_s": 2.0}
    rows = [[built, built | {"cpu_s": 3.0}], [built | {"status": "REJECTED"}, built], [built, {"status": "INVALID"}]]
    found = summary(rows, ["new", "old"])
    assert (found["variants"], found["verdicts_differ"]) == (2, 1)
    assert (found["trees"]["new"]["cpu_s_mean"], found["trees"]["old"]["cpu_s_mean"]) == (1.0, 2.0)
