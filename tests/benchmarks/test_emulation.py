"""What is published of the emulator: which record counts, and what a figure must say of how it was made."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.emulation import publish
from benchmarks.emulation.__main__ import SETS, configs_of, judged, space_of
from benchmarks.emulation.method import ROOT, commit, digest, method


def record(name: str, status: str = "EMULATED_PASSED", **others) -> dict:
    case = {"status": status, "case": "uneven", "kernel": "", "message": "", "seconds": 1.0}
    passed = status == "EMULATED_PASSED"
    made = {"fingerprint": "f", "method": "m", "commit": "c", "count": 64, "seed": 20, "sources": "s", "compiler": "x"}
    named = {"set": "sample", "hash": name, "definition": "d", "config": {"a": 1}, "wall_s": 2.0}
    return {**named, **made, "status": status, "passed": passed, "cases": [case], **others}


def written(path: Path, *records: dict) -> Path:
    path.write_text(json.dumps({"emulated": True, "variants": list(records)}))
    return path


def junit(path: Path, **cases: tuple[bool, dict[str, str]]) -> Path:
    """Name -> (whether the test passed, its properties)."""
    root = ElementTree.Element("testsuite")
    for name, (passed, properties) in cases.items():
        case = ElementTree.SubElement(root, "testcase", name=f"test_a_mistake_is_seen[sm_90a-{name}]")
        held = ElementTree.SubElement(case, "properties")
        for key, value in properties.items():
            ElementTree.SubElement(held, "property", name=key, value=value)
        if not passed:
            ElementTree.SubElement(case, "failure")
    ElementTree.ElementTree(root).write(path)
    return path


def compared(case: str, kernel: str, **others) -> dict:
    same = {"elements": 8, "different": 0, "largest_ulp": 0, "by_atomics": False, "largest_share": 0.0, "equal": True}
    return {"case": case, "kernel": kernel, "tensor": "act", **same, "wrong": "", **others}


def test_a_config_keeps_what_it_was_made_of(tmp_path):
    """Fingerprints were left out, so a page could not say which kernels had passed."""
    (kept,) = publish.judged([written(tmp_path / "a.json", record("1"))])
    assert {key: kept[key] for key in ("fingerprint", "method", "commit", "seed", "sources", "compiler")} == {
        **{"fingerprint": "f", "method": "m", "commit": "c", "seed": 20, "sources": "s", "compiler": "x"}
    }
    assert kept["inputs"] == ["uneven"]
    assert "message" not in kept


def test_the_last_record_of_a_config_counts_be_it_a_failure(tmp_path):
    first = written(tmp_path / "a.json", record("1"), record("2"))
    then = written(tmp_path / "b.json", record("1", "EMULATED_FAULT"))
    now = publish.document({"hopper_configs_equal": 3}, judged_files=[first, then])
    assert (now["configs_passed"], now["configs_run"], now["hopper_configs_equal"]) == (1, 2, 3)


def test_records_of_different_kernels_are_not_counted_together(tmp_path):
    path = written(tmp_path / "a.json", record("1"), record("2", fingerprint="older"))
    with pytest.raises(ValueError, match="older"):
        publish.judged([path])


def test_a_missed_mistake_is_not_hidden_by_an_earlier_pass(tmp_path):
    """A pass in any file counted, also one on kernels of before."""
    seen = {"kernel": "permute", "seen": "StageError", "fingerprint": "f"}
    first = junit(tmp_path / "a.xml", one=(True, seen), two=(True, seen))
    second = junit(tmp_path / "b.xml", one=(False, {"kernel": "permute", "fingerprint": "g"}))
    now = publish.document({}, mistake_files=[first, second])
    assert (now["mistakes_caught"], now["mistakes_planted"]) == (1, 2)
    assert [(m["name"], m["caught"], m["fingerprint"]) for m in now["mistakes"]] == [
        ("one", False, "g"),
        ("two", True, "f"),
    ]


def test_a_mistake_is_the_same_on_a_gpu_only_if_its_kernel_is_the_first_wrong_one_there(tmp_path):
    """Equal numbers prove nothing of a mistake that changes none."""
    runs = {
        "m_00": [compared("uneven", "moe_gemm_1", wrong="act[0, 1] is 2, expected 1")],
        "m_01": [compared("uneven", "moe_gemm_1")],
        "m_02": [compared("uneven", "moe_gemm_1", wrong="x", equal=False, different=3)],
        "m_03": [compared("uneven", "permute", wrong="y"), compared("uneven", "moe_gemm_1", wrong="x")],
    }
    path = tmp_path / "compared.json"
    path.write_text(json.dumps(runs))
    now = publish.document({}, gpu_files=[path])
    assert (now["mistakes_equal_on_gpu"], now["mistakes_run_on_gpu"]) == (1, 4)
    assert now["mistakes_on_gpu"][0]["wrong"] == {"uneven": "act[0, 1] is 2, expected 1"}


def test_hopper_variants_are_gathered_over_files_and_inputs(tmp_path):
    one, two = tmp_path / "a.json", tmp_path / "b.json"
    one.write_text(json.dumps({"e_1": [compared("uneven", "permute", different=1, largest_ulp=2)]}))
    two.write_text(
        json.dumps(
            {
                "e_1": [compared("one_token", "permute"), compared("uneven", "permute", different=1, largest_ulp=2)],
                "e_2": [compared("uneven", "permute", wrong="act[0] is 1, expected 2")],
            }
        )
    )
    now = publish.document({}, hopper_files=[one, two])
    assert (now["hopper_configs_equal"], now["hopper_configs_compared"]) == (1, 2)
    assert now["hopper_configs"][0]["inputs"] == ["one_token", "uneven"]
    assert now["hopper_configs"][0]["tensors"]["permute.act"] == {
        **{"elements": 16, "different": 1, "largest_ulp": 2, "by_atomics": False}
    }


def test_the_command_keeps_what_it_is_not_given(tmp_path):
    out = tmp_path / "emulation.json"
    old = [{"set": "ladder", "passed": True}, {"set": "sample", "passed": True}, {"set": "sample", "passed": False}]
    out.write_text(json.dumps({"mistakes_planted": 60, "configs": old}))
    judged_file = written(tmp_path / "a.json", record("1"))
    command = [sys.executable, "-m", "benchmarks.emulation.publish", "--judged", str(judged_file), "--out", str(out)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    now = json.loads(out.read_text())
    assert (now["mistakes_planted"], now["configs_run"], now["configs_passed"]) == (60, 2, 2)
    assert [c["set"] for c in now["configs"]] == ["ladder", "sample"]


def test_a_variant_that_cannot_be_built_is_a_record(monkeypatch):
    """The file must say that a config failed, and a run must go on behind it."""
    space = space_of(SETS["sample"][0])
    monkeypatch.setattr(type(space), "variant_sources", lambda self, config: {"config.py": "TABLE = []\n", "x.py": "("})
    (found,) = list(judged(space, [dict(space.default)], SETS["sample"][1]))
    assert (found["status"], found["passed"]) == ("EMULATED_NOT_BUILT", False)
    assert found["commit"]
    assert found["method"] == method()


def test_a_sample_is_drawn_the_same_in_every_run():
    """What a page names by its seed must be found again."""
    sizes, _ = SETS["sample"]
    drawn = [configs_of("sample", space_of(sizes), 6, 20) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 6


@pytest.mark.parametrize("name", ["ladder", "starts"])
def test_every_config_of_a_set_is_valid_at_its_sizes(name):
    space = space_of(SETS[name][0])
    configs = configs_of(name, space, 0, 0)
    assert len(configs) >= 9
    assert [space.violation(space.check(c)) for c in configs] == [None] * len(configs)


def test_a_digest_knows_names_and_contents():
    assert digest([("a", b"1"), ("b", b"2")]) == digest([("b", b"2"), ("a", b"1")])
    assert len({digest([("a", b"12")]), digest([("a", b"1"), ("", b"2")]), digest([("b", b"12")])}) == 3


def test_the_commit_is_that_of_kernels_and_emulator():
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    assert commit().rstrip("+").isalnum()


def test_the_page_says_what_the_published_records_say():
    """Its counts were typed by hand, and did not change when the records did."""
    results = ROOT / "docs" / "results"
    now = json.loads((results / "emulation.json").read_text())
    page = " ".join((results / "emulation.md").read_text().split())
    configs, ran = now["configs"], now["mistakes_on_gpu"]
    assert (now["configs_passed"], now["configs_run"]) == (sum(c["passed"] for c in configs), len(configs))
    ran_of = Counter(c["set"] for c in configs)
    passed_of = Counter(c["set"] for c in configs if c["passed"])
    for claim in (
        f"| sm_100a configs | {now['configs_run']} | {now['configs_passed']} |",
        f"| planted mistakes | {now['mistakes_planted']} | {now['mistakes_caught']} |",
        f"emulated | {now['mistakes_run_on_gpu']} | {now['mistakes_equal_on_gpu']} |",
        f"emulated | {now['hopper_configs_compared']} | {now['hopper_configs_equal']} |",
        *(
            f"{ran_of[name]} of {count} ran, {passed_of[name]} passed"
            for name, count in (
                *(("sample", 64), ("ladder", 14), ("starts", 10), ("real", 10), ("second_n", 12)),
                *(("starts_ranked", 5), ("starts_scaled", 1)),
            )
        ),
        *(f"| {m['elements']:,} | {m['different']:,} | {'yes' if m['equal'] else 'no'} |" for m in ran),
    ):
        assert claim in page, claim
    assert len({(c["set"], c["method"], c["fingerprint"]) for c in configs}) == len({c["set"] for c in configs})
    assert all(len(c["inputs"]) == 7 for c in configs if c["passed"] and c["set"] != "real")
