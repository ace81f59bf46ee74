"""Where settings come from: flag, then environment, then file, then default."""

import pytest

from search_spaces import Parameter, SearchSpace
from tuner.errors import UsageError
from tuner.settings import load


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in ("TUNER_DB_URL", "TUNER_DATASET", "FIB_DATASET_PATH", "TUNER_CACHE_DIR", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


def test_flag_beats_environment_beats_file_beats_default(tmp_path, monkeypatch):
    file = tmp_path / "tuner.yaml"
    file.write_text("db: sqlite:///from-file.db\nseed: 7\nmax_trials: 5\n")
    assert load({}, file).db == "sqlite:///from-file.db"
    monkeypatch.setenv("TUNER_DB_URL", "sqlite:///from-environment.db")
    assert load({}, file).db == "sqlite:///from-environment.db"
    settings = load({"db": "sqlite:///from-flag.db", "seed": None}, file)
    assert (settings.db, settings.seed, settings.max_trials) == ("sqlite:///from-flag.db", 7, 5)
    assert settings.sampler == "auto"


def test_tuner_dataset_beats_the_ecosystems_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("FIB_DATASET_PATH", "/ecosystem")
    assert str(load({}).dataset) == "/ecosystem"
    monkeypatch.setenv("TUNER_DATASET", str(tmp_path))
    assert load({}).dataset == tmp_path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_trails: 5", "unknown setting 'max_trails'; known are"),
        ("max_trials: 0", "max_trials"),
        ("max_trials: lots", "max_trials"),
        ("target: tpu", "target='tpu'"),
        ("race_factor: 0.5", "race_factor"),
        ("- a list", "must hold a mapping"),
        ("a: [", "is not YAML"),
    ],
)
def test_bad_file_is_one_line_that_names_key_and_value(tmp_path, text, said):
    file = tmp_path / "tuner.yaml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        load({}, file)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_paths_mean_the_folder_that_they_were_given_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "k").mkdir()
    (tmp_path / "moe_fp8_cpu").mkdir()
    found = load({"dataset": "d", "space": "k", "cache_dir": "../c"})
    assert (str(found.dataset), found.space, str(found.cache_dir)) == (
        f"{tmp_path}/d",
        f"{tmp_path}/k",
        f"{tmp_path}/../c",
    )
    # The name of a space is one, whatever lies there; what is neither is told by whoever looks for it.
    assert (load({"space": "moe_fp8_cpu"}).space, load({"space": "absent"}).space) == ("moe_fp8_cpu", "absent")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"absent\.yaml"):
        load({}, tmp_path / "absent.yaml")


def test_max_trials_auto():
    assert load({"max_trials": "auto"}).max_trials == "auto"


@pytest.mark.parametrize(
    ("target", "mode", "allowed"), [("cpu", "eager", "auto, host"), ("sm_90a", "host", "auto, cuda_graph, eager")]
)
def test_mode_that_the_target_cannot_time_is_told(target, mode, allowed):
    from tuner.sweeps.setup import resolve

    with pytest.raises(UsageError, match=f"mode='{mode}' cannot be timed on {target}; allowed: {allowed}"):
        resolve(load({"target": target, "mode": mode}))


def test_mode_of_a_gpu_is_auto_unless_said():
    from tuner.sweeps.setup import resolve

    methods = [
        resolve(load({"target": t, "mode": m})).method
        for t, m in (("sm_90a", None), ("sm_90a", "eager"), ("cpu", None))
    ]
    assert [m.mode for m in methods] == ["auto", "eager", "host"]
    assert [m.min_samples for m in methods] == [10, 10, 5]


def test_settings_are_read_after_a_search_has_loaded_its_sampler():
    """The package of samplers once took the place of the function of that name: a second sweep in a process failed."""
    from tuner.search import Search

    space = SearchSpace("s", "cpu", (Parameter("a", (1, 2)),), (), {"a": 1}, {})
    for name in ("auto", "tpe", "random", "grid"):
        Search(space, sampler=name)
        assert load({"sampler": name}).sampler == name


@pytest.mark.parametrize(
    ("text", "rtol"),
    [("rtol: 1.0e-3", {"": 1e-3}), ("rtol: {lse: 1.0e-3, out: 0.1}", {"lse": 1e-3, "out": 0.1}), ("seed: 1", {})],
)
def test_tolerances_in_a_file_are_one_number_or_one_by_output(tmp_path, text, rtol):
    file = tmp_path / "tuner.yaml"
    file.write_text(text + "\n")
    assert load({}, file).rtol == rtol


@pytest.mark.parametrize(
    ("flags", "rtol"),
    [(["1e-3"], {"": 1e-3}), (["1e-3", "lse=1e-4"], {"": 1e-3, "lse": 1e-4}), (None, {})],
)
def test_tolerances_as_flags(flags, rtol):
    assert load({"rtol": flags}).rtol == rtol


@pytest.mark.parametrize(
    ("setting", "text"),
    [("rtol", "lse=0"), ("rtol", "many"), ("atol", "nan"), ("atol", "inf"), ("required_matched_ratio", "1.5")],
)
def test_a_tolerance_that_is_none_is_one_line(setting, text):
    with pytest.raises(UsageError, match=setting) as caught:
        load({setting: [text]})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", [["1e-3", "1e-2"], ["lse=1", "lse=2"], ["lse="]])
def test_a_tolerance_flag_that_is_unclear_is_refused(given):
    with pytest.raises(UsageError, match="rtol"):
        load({"rtol": given})
