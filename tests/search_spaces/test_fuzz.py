"""Any space.yaml is a space or one line that says what is wrong with it; nothing else."""

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search_spaces.directory import DirectoryFamily
from search_spaces.parameters import SpaceError

MAIN = "def run(x):\n    return x\n"
DEFINITION = {"name": "d", "op_type": "toy", "axes": {}, "inputs": {}, "outputs": {}, "reference": ""}
SOUND = {
    "op_type": "toy",
    "targets": ["cpu"],
    "entry_point": "main.py::run",
    "parameters": {"a": {"values": [1, 2, 3]}, "b": {"values": ["x", "y"], "kind": "categorical"}},
    "constraints": [{"expression": "a < 3 or b == 'x'", "reason": "why not"}],
    "default": {"a": 1, "b": "x"},
}
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
KEYS = st.text(max_size=8) | st.sampled_from(
    ["a.b", "values", "kind", "a", "b", "expression", "reason", "name", "language"]
)
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)
EXPRESSIONS = st.text(alphabet="ab123 ()<>=!+-*/%.'\",[]{}:andornotifelselambda_", max_size=40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("fuzzed")
    (found / "main.py").write_text(MAIN)
    return found


def read(folder, text):
    """A space, or the one line."""
    (folder / "space.yaml").write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
    try:
        family = DirectoryFamily(folder)
        if family.why_not(DEFINITION) is None and "cpu" in family.targets:
            space = family.space(DEFINITION, "cpu")
            assert space.is_valid(space.default)
            assert space.variant_sources(space.default)
    except SpaceError as error:
        line = str(error)
    else:
        return
    assert "\n" not in line


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_sound_files_with_something_put_in(folder, data):
    document = {**SOUND}
    for key in data.draw(
        st.lists(st.sampled_from([*SOUND, "configs", "name", "size_axis", "language", "odd"]), max_size=3)
    ):
        if data.draw(st.booleans()):
            document.pop(key, None)
        else:
            document[key] = data.draw(VALUES)
    read(folder, yaml.safe_dump(document, allow_unicode=True))


@settings(deadline=None, max_examples=60)
@given(expression=EXPRESSIONS)
def test_any_constraint(folder, expression):
    read(folder, yaml.safe_dump({**SOUND, "constraints": [{"expression": expression, "reason": "r"}]}))


@settings(deadline=None, max_examples=60)
@given(text=st.binary(max_size=60) | st.text(max_size=60))
def test_any_bytes(folder, text):
    read(folder, text)
