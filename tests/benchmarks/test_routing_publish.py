"""One config for all profiles of a size, as a Solution that knows only the number of tokens must have it."""

from __future__ import annotations

from benchmarks.h200_moe.routing_publish import chosen, rows, table


def point(profile: str, **times: float) -> dict:
    return {"profile": profile, "seq_len": 57, "rows": 64, "active": 26, "floor_us": 266.33, "times_us": times}


UNIFORM = point("uniform", default=300.0, few=270.0, many=310.0, other=280.0, baseline_triton=310.0)
HOT = point("hot:3", default=60.0, few=126.0, many=40.0, other=59.0, baseline_triton=115.0)


def test_nothing_slower_than_the_default_on_a_profile_is_chosen():
    """``many`` has the smallest geometric mean, ``few`` is the fastest on uniform routing; both lose somewhere."""
    assert chosen([UNIFORM, HOT]) == "other"


def test_a_baseline_is_never_ours():
    assert chosen([point("uniform", default=300.0, baseline_triton=1.0)]) == "default"


def test_what_was_not_measured_is_null():
    first, second = rows([UNIFORM, HOT])
    assert (first["ours_us"], first["best_config_us"], first["best_config"]) == (280.0, 270.0, "few")
    assert (second["ours_us"], second["best_config_us"], second["best_config"]) == (59.0, 40.0, "many")
    assert second["triton_us"] == 115.0
    assert second["deepgemm_us"] is None
    assert "| hot:3 | 57 | 64 | 26 | 266.3 | 59.0 | - | 115.0 | 40.0 | 1.475 | other |" in table([first, second])
