"""One config for all profiles of a size, as a Solution that knows only the number of tokens must have it."""

from __future__ import annotations

import pytest

from benchmarks.h200_moe.routing_publish import Points, Row, compared, markdown, public_geomean

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
    assert "| hot:3 | 57 | 64 | 26 | 266.3 | 60.0 | - | 116.0 | 41.0 | 1.463 | other |" in markdown([second])


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


def test_samples_that_the_timer_left_out_do_not_break_the_pairs():
    """It leaves out those that were submitted late; variants are compared round by round."""
    late = record("uniform", default=300.0, few=270.0)
    late["samples_us"] = {name: [one * 4 for one in rounds] for name, rounds in late["samples_us"].items()}
    late["samples_us"]["few"][3] = late["samples_us"]["few"][3][:2]
    late["samples_us"]["few"][5] = []
    (row,) = Points([late], CONFIGS).table(["default", "few"])
    assert row.config == "few"
