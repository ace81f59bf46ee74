"""``tuner verify``: what it refuses, and a verdict from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from benchmarks.packaged_dataset.make import moe_definition
from db.store import Store
from search_spaces.emulated_case import StageError
from search_spaces.moe_fp8_cute.space import FAMILY
from tests.search_spaces.moe_fp8_cute.test_space import made_up
from tuner.commands.verify import _valid_winners, of_solution, read_solution, verify_first
from tuner.errors import NothingFoundError, UsageError
from tuner.progress import Steps
from tuner.settings import load

SMALL = ["--space", "moe_fp8_cute", "--json"]


def tuner(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tuner", "verify", *arguments], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--space", "moe_fp8_cpu", "--target", "cpu"], "--target is cpu; the emulator knows sm_90a, sm_100a"),
        ([*SMALL, "--target", "sm_90a", "--sweep", "1", "--solution", "x.json"], "exclude each other"),
        ([*SMALL, "--target", "sm_90a", "--solution", "nowhere.json"], "nowhere.json cannot be read: No such file"),
        (["--target", "sm_90"], "setting target='sm_90': target 'sm_90' is unknown; allowed are cpu, sm_90a"),
        (SMALL, "give --target; the emulator knows sm_90a, sm_100a"),
    ],
)
def test_what_cannot_be_judged_is_one_line_and_exit_code_2(arguments, message):
    done = tuner(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def solution_file(folder, definition, *rows):
    """A Solution with these rows, largest size and what differs from the default, as an export writes it."""
    space = FAMILY.space(definition, "sm_100a")
    sources = space.render([(bound, {**space.default, **changes}) for bound, changes in rows or ((None, {}),)])
    document = {"name": "mine", "definition": definition["name"]}
    document |= {"sources": [{"path": path, "content": text} for path, text in sources.items()]}
    path = folder / "mine.json"
    path.write_text(json.dumps(document))
    return path


def test_a_solution_of_a_large_definition_is_judged_at_small_sizes(tmp_path):
    """Its weights alone have 1.4 GB: emulated as it is, it would take hours. Each of its configs is judged, not those
    alone whose sizes the small inputs have."""
    wide = {"swap_2": True, "mma_m_2": 256, "tile_t_2": 64, "tile_w_2": 256, "cluster_w_2": 4}
    rows = [(64, {"order": "mixed"}), (256, wide), (1024, {}), (None, {"order": "mixed"})]
    file = read_solution(solution_file(tmp_path, made_up(), *rows), None)
    small = moe_definition()
    space = FAMILY.space(small, "sm_100a")
    said: list[str] = []
    subjects = of_solution(file, FAMILY, space, small["name"], said.append)
    assert [s.config["order"] for s in subjects] == ["mixed", space.default["order"]]
    scope: dict = {}
    exec(subjects[0].sources["config.py"], scope)
    assert scope["SIZES"]["hidden"] == 512
    assert scope["select"](4096)["order"] == "mixed"
    assert {n: t for n, t in subjects[0].sources.items() if n != "config.py"} == dict(space.sources)
    assert subjects[0].cases[0].name == "one token"
    (left_out,) = said
    assert left_out.startswith(f"left out of {file.path}: its config for sizes up to 256 is not valid there: ")


def test_a_solution_without_a_config_that_small_sizes_take_is_one_line(tmp_path):
    wide = {"swap_2": True, "mma_m_2": 256, "tile_t_2": 64, "tile_w_2": 256, "cluster_w_2": 4}
    file = read_solution(solution_file(tmp_path, made_up(), (None, wide)), None)
    small = moe_definition()
    with pytest.raises(NothingFoundError, match=r"can be judged in space .* its config for larger sizes is not valid"):
        of_solution(file, FAMILY, FAMILY.space(small, "sm_100a"), small["name"], lambda _: None)


def test_winners_of_an_earlier_version_of_the_space_are_judged_with_its_later_parameters_at_their_default(tmp_path):
    """They were called none that is valid, whatever their kernels are."""
    space = FAMILY.space(moe_definition(), "sm_90a")
    earlier = {name: value for name, value in space.default.items() if name != "pdl"}
    strange = {**space.default, "gone": 1}
    said: list[str] = []
    assert _valid_winners(space, {"0-16": earlier, "17+": strange}, "sweep 1", said.append) == [space.default]
    assert said == ["left out of sweep 1: its config for 17+ is not valid there: it has no 'gone'"]


def test_a_solution_from_before_a_parameter_is_judged_by_the_default_of_it(tmp_path):
    """Of the same definition, as it is: it ended in a KeyError at the parameter that its table does not have."""
    small = moe_definition()
    path = solution_file(tmp_path, small, (64, {"order": "mixed"}), (None, {}))
    file = read_solution(path, None)
    earlier = [(bound, {n: v for n, v in c.items() if n != "crowded_rows"}) for bound, c in file.table]
    space = FAMILY.space(small, "sm_100a")
    now, before = (of_solution(f, FAMILY, space, small["name"], print) for f in (file, replace(file, table=earlier)))
    assert [case.name for case in before[0].cases] == [case.name for case in now[0].cases]
    assert before[0].sources == file.sources


def test_a_sweep_is_judged_on_its_own_target_and_space(tmp_path, scene):
    """One that cannot be emulated is said to be the sweep's, not the user's."""
    url = f"sqlite:///{tmp_path}/own.db"
    with Store.open(url) as store:
        here = scene(store, target="cpu")
        sweep = here.finished(here.winner(1))
    done = tuner("--sweep", str(sweep), "--db", url)
    assert f"sweep {sweep} was for cpu; the emulator knows sm_90a, sm_100a" in done.stderr


def test_a_sweep_on_a_target_that_cannot_be_emulated_does_not_begin(tmp_path):
    flags = ["--target", "cpu", "--verify-first", "1", "--db", f"sqlite:///{tmp_path}/t.db"]
    done = subprocess.run([sys.executable, "-m", "tuner", "sweep", *flags], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--target is cpu; the emulator knows sm_90a, sm_100a" in done.stderr
    assert "sweep 1" not in done.stderr


@pytest.mark.slow
def test_a_config_that_fails_on_the_emulator_keeps_a_sweep_from_beginning(monkeypatch):
    pytest.importorskip("cutlass", reason="nvidia-cutlass-dsl is not installed")

    def refuse(kernel, memory):
        raise StageError("y[3] is 1, must be 2")

    right = type(FAMILY).emulated_cases
    monkeypatch.setattr(
        type(FAMILY), "emulated_cases", lambda *a: [replace(case, check=refuse) for case in right(*a)[:1]]
    )
    said: list[str] = []
    view = Steps()
    view.say = said.append
    settings = load({"space": "moe_fp8_cute", "target": "sm_100a", "verify_first": 1})
    with pytest.raises(NothingFoundError, match=r"1 of 1 configs failed .* routing, one token: y\[3\] is 1, must be 2"):
        verify_first(settings, view)
    assert any("EMULATED_WRONG_NUMBERS" in line for line in said)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_90a", "sm_100a"])
def test_the_default_passes_and_says_that_it_was_emulated(target):
    pytest.importorskip("cutlass", reason="nvidia-cutlass-dsl is not installed")
    done = tuner(*SMALL, "--target", target)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema_version"]
    assert document["emulated"] is True
    (variant,) = document["variants"]
    assert variant["status"] == "EMULATED_PASSED"
    assert len(variant["cases"]) == 7
    assert not any("_us" in key for key in variant)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("raise SystemExit(7)\nTARGET = 'sm_90a'", "'TABLE' is missing"),
        ("TARGET = nobody_knows", "its config.py is none that an export writes"),
        ("TARGET = (", "its config.py is none that an export writes"),
    ],
)
def test_the_config_of_a_strangers_solution_is_read_and_not_run(tmp_path, code, why):
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"definition": "a", "sources": [{"path": "config.py", "content": code}]}))
    with pytest.raises(UsageError, match=f"is no Solution of a space that can be emulated: {why}$"):
        read_solution(path, None)


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"a": 1}, "'sources' is missing"),
        ({"sources": []}, "'config.py' is missing"),
        ({"sources": [1]}, "a part of it has another form"),
    ],
)
def test_a_file_that_is_no_solution_is_said_in_our_words(tmp_path, document, why):
    path = tmp_path / "s.json"
    path.write_text(json.dumps(document))
    with pytest.raises(UsageError, match=f"is no Solution of a space that can be emulated: {why}$"):
        read_solution(path, None)


def test_a_sweep_that_is_not_there_is_not_called_one_without_winners(tmp_path):
    url = f"sqlite:///{tmp_path}/empty.db"
    Store.open(url).close()
    done = tuner(*SMALL, "--target", "sm_90a", "--sweep", "77", "--db", url)
    assert "there is no sweep 77" in done.stderr
