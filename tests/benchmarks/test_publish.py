"""The published table of the H200 benchmark: which config serves a regime, and what is said about its target."""

import json

import pytest

pytest.importorskip("torch", reason="torch is not installed")


@pytest.fixture(scope="module")
def publish(of_h200_moe):
    return of_h200_moe("publish")


def result(publish, name: str, medians: dict[int, float], status: str = "PASSED") -> dict:
    """A record of drive.py with a floor of 100 us for every workload."""
    times = [
        {"seq_len": t, "rows": t, "active_experts": 1, "floor_us": 100.0, "median_us": us, "config": {"name": name}}
        for t, us in medians.items()
    ]
    return {"variant": name, "definition": publish.MAIN.name, "status": status, "times": times}


def test_one_config_serves_a_regime(publish, tmp_path):
    records = [
        result(publish, "first", {1: 150.0, 7: 120.0, 901: 119.0}),
        result(publish, "second", {1: 110.0, 7: 130.0, 901: 130.0}),
        result(publish, "partial", {1: 101.0}),
        result(publish, "wrong", {1: 100.0, 7: 100.0, 901: 100.0}, "INCORRECT_NUMERICAL"),
    ]
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    results = publish.read([path])
    chosen = [publish.choose(results, regime) for regime in publish.REGIMES]
    assert [[(f["seq_len"], f["config"]["name"]) for f in figures] for figures in chosen] == [
        [(1, "second"), (7, "second")],
        [],
        [(901, "first")],
        [],
    ]


def test_every_public_workload_has_one_regime(publish):
    from problems import PUBLIC_WORKLOADS

    assert all(sum(r.holds(tokens) for r in publish.REGIMES) == 1 for _, tokens, _ in PUBLIC_WORKLOADS)


def test_a_row_says_whether_the_target_is_reached(publish):
    figures = result(publish, "x", {7: 132.0, 11948: 174.0})["times"]
    assert publish.row(figures[0], publish.REGIMES[0]).endswith("| 132.0 | reached |")
    assert publish.row(figures[1], publish.REGIMES[3]).endswith("| 145.0 | missed by 29.0 us (20%) |")


def test_the_floor_of_another_card(publish):
    """Half the copy rate doubles the floor of what is bound by memory."""
    floor = publish.MAIN.floor_us(1, 7)
    (figures,) = result(publish, "x", {7: 3 * floor})["times"]
    assert "1.500 F" in publish.row(figures, publish.REGIMES[0], copy_tb_s=2.15)
