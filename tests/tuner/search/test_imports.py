"""What importing the search loads, in a fresh interpreter."""

import subprocess
import sys

HEAVY = ("torch", "ray", "cutlass", "optuna", "scipy.optimize")


def loaded(code):
    text = f"import sys\n{code}\nprint(' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout.split()


def test_importing_the_package_loads_nothing_heavy():
    assert loaded("import tuner.search; tuner.search.sampler_names()") == []


def test_a_search_with_the_default_strategy_never_loads_torch():
    code = """
from search_spaces.parameters import Parameter
from search_spaces.space import SearchSpace
from tuner.search import Search
space = SearchSpace("s", "cpu", (Parameter("a", tuple(range(40))),), (), {"a": 3}, {})
search = Search(space)
for _ in range(20):
    p = search.ask(); search.tell(p.number, float(p.config["a"] % 7))
"""
    assert "torch" not in loaded(code)
