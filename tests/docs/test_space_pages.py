"""The tutorial and the reference of ``space.yaml`` show what the examples hold and what the reader takes."""

import re
from pathlib import Path

import pytest
import yaml

from search_spaces.space_yaml.keys import SpaceKeys, read_keys

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = (ROOT / "docs" / "bring-your-own-kernel.md").read_text()
REFERENCE = (ROOT / "docs" / "space-file.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TUTORIAL + REFERENCE, re.M | re.S)
QUOTED = [(m[1], text) for _, text in BLOCKS if (m := re.match(r"# (examples/\S+)\n", text))]


@pytest.mark.parametrize(("file", "text"), QUOTED, ids=[file for file, _ in QUOTED])
def test_what_is_quoted_of_an_example_stands_in_it(file, text):
    """Line by line in this order; lines may be left out."""
    lines = iter((ROOT / file).read_text().splitlines())
    missing = [line for line in text.splitlines()[1:] if line and line not in lines]
    assert missing == []


def test_the_tutorial_quotes_a_kernel_and_its_space():
    assert {Path(file).name for file, _ in QUOTED} == {"main.py", "space.yaml"}


def test_every_key_has_a_line_in_the_reference_and_no_other_has_one():
    table = REFERENCE[: REFERENCE.index("**Sources**")]
    rows = re.findall(r"^\| (`.*?) \|", table, re.M)
    assert {key for row in rows for key in re.findall(r"`(\w+)`", row)} == set(SpaceKeys.model_fields)


def test_every_example_is_in_the_tutorial():
    folders = {f.parent.relative_to(ROOT).as_posix() for f in (ROOT / "examples").glob("*/space.yaml")}
    table = TUTORIAL[: TUTORIAL.index("## 1.")]
    assert set(re.findall(r"`(examples/\w+)`", table)) == folders


@pytest.mark.parametrize("text", [text for kind, text in BLOCKS if kind == "yaml"], ids=lambda text: text.split(":")[0])
def test_yaml_on_the_pages_is_what_the_reader_takes(text):
    """A part of a file, completed with what it leaves out."""
    given = yaml.safe_load(text)
    rest = {"op_type": "toy", "targets": ["cpu"], "entry_point": "main.py::run", "default": {"a": 1}}
    if "parameters" not in given and "configs" not in given:
        rest["parameters"] = {"a": [1]}
    keys = read_keys({**rest, **given})
    assert keys.default
