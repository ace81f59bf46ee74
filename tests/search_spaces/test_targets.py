"""A new GPU target is a row of the one table, and a space that has it among its targets."""

import subprocess
import sys

from tests.tuner import toy

ROW = 'Target("sm_120a", "cuda", _CUDA_MODES, (12, 0), (Accelerator("Some GPU"),), Limits(units=188)),'
CODE = """
import importlib.util, sys
from pathlib import Path

spec = importlib.util.find_spec("search_spaces.targets")
text = Path(spec.origin).read_text(encoding="utf-8")
assert text.count("TARGETS = (\\n") == 1
module = importlib.util.module_from_spec(spec)
sys.modules["search_spaces.targets"] = module
exec(compile(text.replace("TARGETS = (\\n", f"TARGETS = (\\n{ROW}\\n"), spec.origin, "exec"), module.__dict__)

from tuner.settings import load
from tuner.sweeps.setup import resolve
from workers.cluster import machines
from workers.devices.environment import toolchain

setup = resolve(load({"dataset": sys.argv[1], "space": sys.argv[2], "definition": "a", "target": "sm_120a"}))
space = setup.checked_space()
assert [c["step"] for c in space.enumerate()] == [1, 2], "the limits of the row are what constraints read"
assert space.render([(None, space.default)])["config.py"].count("TARGET = 'sm_120a'") == 1
assert setup.method.mode == "auto" and "cpu" not in toolchain("sm_120a")
from search_spaces.targets import target_of_accelerator, target_of_capability
assert target_of_accelerator("Some GPU") == target_of_capability((12, 0)) == "sm_120a"
"""


def test_a_row_of_the_table_is_all_that_a_target_needs_beside_a_space(tmp_path):
    """Limits stood in a second table, in the module of expressions."""
    toy.dataset(tmp_path / "d", [{"n": 8}])
    rule = {"expression": "step * 90 < units", "reason": "fits"}
    toy.kernel(tmp_path / "k", targets=["sm_120a"], constraints=[rule])
    code = f"ROW = {ROW!r}\n{CODE}"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "d"), str(tmp_path / "k")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
