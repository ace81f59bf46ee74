"""What follows the rows of the experts, the same in both targets' spaces: launches of their own, and a second N."""

from __future__ import annotations

from search_spaces.parameters import Config, Constraint, Parameter

SPLIT_ROWS = Parameter(
    "split_rows",
    (0, 8, 16, 32, 64),
    doc="experts with more rows get launches of their own, tokens as M; 0: one form serves all",
)

CROWDED_ROWS = Parameter(
    "crowded_rows",
    (0, 32, 64, 128, 256),
    doc="split_rows divides the experts only in calls where one of them has more rows than this; 0: in all calls",
)

CROWDED_TOTAL = Parameter(
    "crowded_total",
    (0, 256, 512, 1024),
    doc="split_rows divides the experts only in calls where those with more than crowded_rows rows have together more "
    "rows than this; 0: where there is one such expert",
)

FEWER_COLUMNS = Constraint(
    ("narrow", "swap_1", "tile_t_1", "swap_2", "tile_t_2"),
    "only swapped tiles with more token columns can be multiplied with fewer",
    lambda c: not c["narrow"] or any(c[f"swap_{i}"] and c[f"tile_t_{i}"] > c["narrow"] for i in (1, 2)),
)


def narrow_parameter(rows: tuple[int, ...]) -> Parameter:
    """The second N: the tiles of an expert that have few rows need not be multiplied like full ones."""
    return Parameter(
        "narrow", rows, doc="swapped operands: a tile with at most this many rows has an MMA of its own; 0: none has"
    )


def split_constraints(default: Config, many: tuple[str, ...]) -> tuple[Constraint, ...]:
    """Rules about dividing the experts by their rows, the same on both targets; ``many``: what only then has a use."""
    return (
        _swapped("swap_1"),
        _swapped("swap_2"),
        *(_unused(name, default) for name in ("crowded_rows", "crowded_total", *many)),
        Constraint(
            ("split_rows", "crowded_rows"),
            "crowded_rows takes the place of split_rows in calls without a busy expert, so it is the larger one",
            lambda c: not c["crowded_rows"] or c["crowded_rows"] > c["split_rows"],
        ),
        Constraint(
            ("crowded_rows", "crowded_total"),
            "crowded_total adds up what experts with more than crowded_rows rows have; one of them alone already has "
            "more than crowded_rows, so it is the larger one",
            lambda c: not c["crowded_total"] or 0 < c["crowded_rows"] < c["crowded_total"],
        ),
        Constraint(
            ("split_rows", "requant"),
            "parts of K and a requantisation kernel are for launches that serve all experts",
            lambda c: not c["split_rows"] or c["requant"] == "fused",
        ),
    )


def _unused(name: str, default: Config) -> Constraint:
    """One for each parameter, so that a random config is decided by ``split_rows`` and not by what depends on it."""
    return Constraint(
        ("split_rows", name),
        "where one form serves all experts, parameters of the other have no effect: only the default is taken",
        lambda c: c["split_rows"] > 0 or c[name] == default[name],
    )


def _swapped(swap: str) -> Constraint:
    """One for each GEMM."""
    return Constraint(
        (swap, "split_rows", "crowded_rows"),
        "few rows per expert want the weights as M, the other launch has tokens as M; with crowded_rows both may, as "
        "the launch for few rows then serves all experts of some calls",
        lambda c: not c["split_rows"] or bool(c[swap]) or c["crowded_rows"] > 0,
    )
