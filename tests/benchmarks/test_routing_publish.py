"""One config for all profiles of a size, as a Solution that knows only the number of tokens must have it."""

from __future__ import annotations

import gzip
import itertools
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from benchmarks.h200_moe.routing_publish import Points, Row, compared, given, main, markdown, public_geomean, read
from tuner.sweeps.regimes import DEFAULT_BOUNDS

CONFIGS = {name: {"tile": tile} for tile, name in enumerate(("default", "few", "many", "other"))}


def record(profile: str, **us: float) -> dict:
    """One point. Rounds that choose hold the given times, those that are shown are 1 us longer."""
    samples = {name: [[at * (1 + 0.001 * n)] for n in range(-4, 4)] + [[at + 1]] * 8 for name, at in us.items()}
    about = {"profile": profile, "seq_len": 57, "uuid": "", "rows": 64, "active": 26, "floor_us": 266.33}
    return {**about, "samples_us": samples}


def again(uuid: str = "", **us: float) -> dict:
    """A point of the second pass."""
    return {**record("uniform"), "uuid": uuid, "samples_us": {name: [[at]] * 4 for name, at in us.items()}}


UNIFORM = record("uniform", default=300.0, few=270.0, many=310.0, other=280.0, baseline_triton=310.0)
HOT = record("hot:3", default=60.0, few=126.0, many=40.0, other=59.0, baseline_triton=115.0)


def test_nothing_slower_than_the_default_on_a_profile_is_chosen():
    """``many`` has the smallest geometric mean, ``few`` is the fastest on uniform routing; both lose somewhere."""
    (row,) = Points([UNIFORM, HOT], CONFIGS).table(list(CONFIGS))
    assert (row.bound, row.config) == (None, "other")


def test_a_baseline_is_never_ours():
    points = Points([record("uniform", default=300.0, baseline_triton=1.0)], CONFIGS)
    (row,) = compared(points, points.table(list(CONFIGS)))
    assert (row["ours_config"], row["best_config"]) == ("default", "default")


def test_figures_are_of_rounds_that_chose_nothing_and_what_was_not_measured_is_null():
    points = Points([UNIFORM, HOT], CONFIGS)
    first, second = compared(points, points.table(list(CONFIGS)))
    assert (first["ours_us"], first["best_config_us"], first["best_config"]) == (281.0, 271.0, "few")
    assert (second["ours_us"], second["best_config_us"], second["best_config"]) == (60.0, 41.0, "many")
    assert (second["triton_us"], second["deepgemm_us"]) == (116.0, None)
    assert "| hot:3 | 57 | 64 | 26 | 266.3 | 60.0 | - | 116.0 | 41.0 | 1.463 | many |" in markdown([second])


def test_a_second_pass_is_shown_and_all_rounds_of_the_first_choose():
    """``few`` wins the first half of the rounds and loses the second: half of them would choose it."""
    first = record("uniform", default=300.0, few=270.0, many=280.0)
    first["samples_us"]["few"][8:] = [[400.0]] * 8
    second = again(default=301.0, many=285.0, exported=290.0, baseline_deepgemm=295.0)
    missing = {**record("hot:3", default=50.0, many=40.0), "uuid": "not measured again"}
    points = Points([first, missing], CONFIGS, [second])
    rows = points.table(["default", "few", "many"])
    assert [row.config for row in rows] == ["many"]
    (row,) = compared(points, rows)
    assert (row["ours_us"], row["best_config_us"], row["best_config"]) == (290.0, 285.0, "many")
    assert (row["deepgemm_us"], row["default_us"]) == (295.0, 301.0)


def test_the_solution_that_was_measured_is_shown_with_its_own_table():
    points = Points([{**UNIFORM, "uuid": "public"}], CONFIGS, [again("public", exported=290.0)])
    assert public_geomean(points, [Row(None, "other", "given")]) == (1, pytest.approx(290.0))


def test_points_of_two_cards_and_the_solution_of_a_sweep_are_published_together(tmp_path, monkeypatch, capsys):
    """Half of the points are in each file; the Solution's table has configs, of which the pool knows one."""
    for name, config in CONFIGS.items():
        (tmp_path / "pool" / name).mkdir(parents=True)
        (tmp_path / "pool" / name / "variant.json").write_text(json.dumps({"config": config}))
    table = [(57, CONFIGS["few"]), (None, {"tile": 64})]
    (tmp_path / "solution").mkdir()
    (tmp_path / "solution" / "config.py").write_text(f"TABLE = {table!r}\n")
    large = {**record("hot:3", default=60.0, many=40.0, ours=42.0), "seq_len": 4096, "uuid": "public"}
    files = {"a": [record("uniform", default=300.0, few=270.0, ours=272.0)], "b": [large]}
    for name, records in files.items():
        (tmp_path / name).write_text(json.dumps(records))
    arguments = ["pool", "--choosing", "a", "b", "--ours", "ours", "--given", "solution", "--json", "out.json"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["routing_publish", *arguments])
    main()
    first, second = json.loads((tmp_path / "out.json").read_text())
    assert (first["ours_us"], first["best_config_us"], first["ours_config"]) == (273.0, 271.0, "few")
    assert (second["ours_us"], second["best_config_us"], second["ours_config"]) == (43.0, 41.0, "sweep-2")
    assert "| all | sweep-2 | tile = 64 |" in capsys.readouterr().out


def test_a_point_that_two_runs_measured_is_refused(tmp_path):
    """The later file would have taken the place of the first, or samples of two cards the same median."""
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(json.dumps([UNIFORM]))
    with pytest.raises(ValueError, match=r"b\.json: uniform 57 .*measured before"):
        read([tmp_path / "a.json", tmp_path / "b.json"])


def test_a_table_by_names_is_taken_as_it_is(tmp_path):
    (tmp_path / "table.json").write_text(json.dumps([[8, "few"], [None, "many"]]))
    rows = given(tmp_path / "table.json", CONFIGS)
    assert [(row.bound, row.config) for row in rows] == [(8, "few"), (None, "many")]


def test_samples_that_the_timer_left_out_do_not_break_the_pairs():
    """It leaves out those that were submitted late; variants are compared round by round."""
    late = record("uniform", default=300.0, few=270.0)
    late["samples_us"] = {name: [one * 4 for one in rounds] for name, rounds in late["samples_us"].items()}
    late["samples_us"]["few"][3] = late["samples_us"]["few"][3][:2]
    late["samples_us"]["few"][5] = []
    (row,) = Points([late], CONFIGS).table(["default", "few"])
    assert row.config == "few"


RESULTS = Path(__file__).parents[2] / "docs" / "results"
POWERS = [2**n for n in range(3, 13)]


@pytest.fixture(scope="module")
def raw() -> dict:
    """What the published figures are made of."""
    return json.loads(gzip.decompress((RESULTS / "routing-raw.json.gz").read_bytes()))


def test_the_published_points_are_medians_of_the_published_samples(raw):
    points = Points(raw["choosing"], raw["configs"], raw["shown"], POWERS)
    rows = [Row(bound, config, "given") for bound, config in raw["sweep"]["table"]]
    assert compared(points, rows, "pool_table") == json.loads((RESULTS / "routing.json").read_text())


def test_the_published_table_follows_from_the_first_pass(raw):
    rows = Points(raw["choosing"], raw["configs"], raw["shown"], [*POWERS, 8192]).table(raw["in_table"])
    assert [[row.bound, row.config] for row in rows] == raw["table"]


def _by_regimes(raw: dict, bounds: Sequence[int]) -> str:
    """What the page says of a table whose regimes have these bounds at first."""
    points = Points(raw["choosing"], raw["configs"], None, bounds)
    behind = [p["ours_us"] / p["best_config_us"] for p in compared(points, points.table(raw["in_table"]))]
    mean = _mean(behind)
    first = " behind the best config on average (geometric mean)" if bounds == DEFAULT_BOUNDS else ""
    return f"{100 * (mean - 1):.1f} %{first}, {max(behind):.2f} times"


def _mean(ratios: Iterable[float]) -> float:
    return statistics.geometric_mean(ratios)


def test_what_the_routing_page_says_of_all_points_follows_from_them(raw):
    page = (RESULTS / "routing.md").read_text()
    points = json.loads((RESULTS / "routing.json").read_text())
    assert markdown(points, "pool_table") in page

    def clear(name: str) -> int:
        return sum(p[name] <= min(p["deepgemm_us"], p["triton_us"]) for p in points)

    def spared(name: str) -> int:
        return sum(p[name] <= p["default_us"] for p in points)

    behind, pool = ([p[name] / p["best_config_us"] for p in points] for name in ("ours_us", "pool_table_us"))
    throttled = [r for r in raw["shown"] if r["conditions"]["throttle_reasons"]]
    fast = [r["conditions"]["sm_mhz"] for r in raw["shown"] if not r["conditions"]["throttle_reasons"]]
    public = [
        public_geomean(Points(raw["choosing"], raw["configs"], raw["shown"], ours=name), [Row(None, "default", "")])
        for name in ("exported", "pool_table")
    ]
    mean = {peer: _mean(p["ours_us"] / p[f"{peer}_us"] for p in points) for peer in ("deepgemm", "triton", "default")}
    for claim in (
        f"**{clear('ours_us')} of {len(points)} points** | **{clear('pool_table_us')} of {len(points)}**",
        f"{mean['deepgemm']:.2f} of DeepGEMM's time, {mean['triton']:.2f} of Triton's",
        f"{sum(b <= 1.05 for b in behind)} of {len(points)} points, worst {max(behind):.3f}"
        f" | **no**: {sum(b <= 1.05 for b in pool)} of {len(points)}, worst {max(pool):.3f}",
        f"| {100 * (_mean(behind) - 1):.1f} %; see below | {100 * (_mean(pool) - 1):.1f} % |",
        f"(geometric mean of {public[0][0]}) | {public[0][1]:.1f} (",
        f"| at {spared('ours_us')} of {len(points)} points; {mean['default']:.2f} of its time",
        f"| at {spared('pool_table_us')} of {len(points)} |",
        f"At {len(throttled)} of {len(points)} points",
        f"{len(raw['checks'])} forms, {raw['checks'][0]['checks']} random cases each",
        f"worst Frobenius error {max(c['worst_frobenius'] for c in raw['checks']):.4f}",
        f"{len(raw['configs'])} configs, six rounds of four samples each",
        *(_by_regimes(raw, bounds) for bounds in (DEFAULT_BOUNDS, POWERS)),
    ):
        assert claim in " ".join(page.split()), claim
    assert min(r["seq_len"] for r in throttled) == 512
    assert sorted(set(fast)) == [1950, 1980]
    assert all(c["status"] == "PASSED" and c["checks"] == 200 for c in raw["checks"])
    assert all(s["status"] == "PASSED" and " 0 errors" in s["summary"].replace("(", " ") for s in raw["sanitizers"])
    assert raw["equal"] == "250 comparisons of 10 configs, 0 different"


def test_what_the_routing_page_says_of_unseen_routings_follows_from_the_samples(raw):
    """A mean of other samples, or a point behind a peer that is not counted."""
    page = (RESULTS / "routing.md").read_text()
    found: dict[str, list[dict[str, float]]] = {}
    for point in raw["unseen"]:
        us = {name: statistics.median(itertools.chain(*rounds)) for name, rounds in point["samples_us"].items()}
        found.setdefault(point["profile"], []).append(us)
    peers = ("baseline_deepgemm", "baseline_triton", "default")
    for profile, sizes in found.items():
        means = (f"{_mean(us['exported'] / us[peer] for us in sizes):.3f}" for peer in peers)
        behind = (str(sum(us["exported"] > us[peer] for us in sizes)) for peer in (peers[0], peers[2]))
        assert f"| {profile} | {' | '.join([*means, *behind])} |" in page
    assert not sum(us["exported"] > us["baseline_triton"] for sizes in found.values() for us in sizes)


def test_another_solution_is_a_column_of_its_own_beside_ours():
    """Its figures would stand under the name of another one's."""
    shown = again(default=300.0, few=270.0, mine=280.0, pool_table=290.0)
    points = Points([UNIFORM], CONFIGS, [shown], ours="mine")
    (row,) = compared(points, [Row(None, "few", "")], "pool_table")
    assert (row["ours_us"], row["pool_table_us"], row["best_config_us"]) == (280.0, 290.0, 270.0)
    assert "| ours | pool table | DeepGEMM |" in markdown([row], "pool_table")
    assert "| 280.0 | 290.0 | - |" in markdown([row], "pool_table")
