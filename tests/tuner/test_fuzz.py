"""Any config file is settings or one line that says what is wrong with it; nothing else."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.errors import UsageError
from tuner.settings import SweepSettings, load

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PLAIN, inner, max_size=3))
KEYS = st.sampled_from(sorted(SweepSettings.model_fields)) | PLAIN


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzzed") / "settings.yaml"


def read(path, content):
    path.write_bytes(content)
    try:
        found = load({}, path)
    except UsageError as error:
        line = str(error)
    else:
        assert isinstance(found, SweepSettings)
        return
    assert "\n" not in line


@settings(deadline=None, max_examples=150)
@given(document=st.dictionaries(KEYS, VALUES, max_size=3))
def test_any_settings(path, document):
    read(path, yaml.safe_dump(document, allow_unicode=True).encode(errors="surrogatepass"))


@settings(deadline=None, max_examples=80)
@given(content=st.binary(max_size=50) | st.text(max_size=50).map(lambda t: t.encode(errors="surrogatepass")))
def test_any_bytes(path, content):
    read(path, content)
