"""The recipe of docs/service.md: an inference server picks its kernel at start-up, also when the service is away."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main

from db.records import ExportRecord
from db.store import Store
from tuner import Client
from tuner.cli.app import app as commands
from workers.devices.environment import cpu_model, gpu_name

RECIPE = Path(__file__).parents[3] / "examples" / "inference_server" / "kernels.py"
SOLUTION = {
    "name": "fast",
    "spec": {"language": "python", "entry_point": "main.py::run"},
    "sources": [
        {"path": "main.py", "content": "from .config import TILE\n\n\ndef run(x):\n    return TILE * x\n"},
        {"path": "config.py", "content": "TILE = 2\n"},
    ],
}


@pytest.fixture(scope="module")
def recipe() -> Any:
    spec = importlib.util.spec_from_file_location("recipe", RECIPE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def server(serve: Callable[..., Any], scene: Any) -> Any:
    """A server that knows a Solution for this machine."""
    running = serve("--rate-per-s", "0")
    with Store.open(running.db) as store:
        filled = scene(store, hardware=gpu_name() or cpu_model())
        content = json.dumps(SOLUTION)
        store.exports.record(ExportRecord(filled.finished(filled.winner(2)), "fast", "d", content=content))
    return running


def own(x: int) -> int:
    """The inference server's own kernel."""
    return -x


def test_the_best_solution_is_used_and_survives_the_service(recipe: Any, server: Any, tmp_path: Path) -> None:
    client = Client(server.url, attempts=1, cache_dir=tmp_path / "cache")

    def pick(definition: str = "gemm") -> Callable[[int], int]:
        kernel: Callable[[int], int] = recipe.best_kernel(
            client, definition, {"seq_len": 10}, own, tmp_path / "solutions"
        )
        return kernel

    assert pick()(21) == 42
    assert pick("unknown")(21) == -21
    server.stop()
    assert pick()(21) == 42
    shutil.rmtree(tmp_path / "cache")
    assert pick()(21) == -21


def test_a_source_cannot_leave_its_folder(recipe: Any, tmp_path: Path) -> None:
    hostile = {**SOLUTION, "sources": [{"path": "../../outside.py", "content": ""}]}
    with pytest.raises(ImportError, match="leaves"):
        recipe.write_sources(hostile, tmp_path / "a" / "b" / "place")
    assert [p.name for p in tmp_path.rglob("*.py")] == []
    assert not (tmp_path / "a" / "b" / "place").exists()


def test_the_guide_lists_every_route(tmp_path: Path) -> None:
    from tuner.service.app import make
    from tuner.service.settings import ServiceSettings

    paths = make(ServiceSettings(db="sqlite://", log_dir=tmp_path, out=tmp_path)).openapi()["paths"]
    served = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    guide = (RECIPE.parents[2] / "docs" / "service.md").read_text()
    assert set(re.findall(r"^\| `((?:GET|POST|DELETE) [^`]+)` \|", guide, re.MULTILINE)) == served


def test_the_guide_names_commands_and_files_that_exist() -> None:
    root = RECIPE.parents[2]
    guide = (root / "docs" / "service.md").read_text()
    linked = re.findall(r"\]\(([^)#]+)\)", guide)
    assert linked
    assert all((root / "docs" / link).exists() for link in linked)
    assert all((root / name).exists() for name in re.findall(r"`((?:deploy|tests)/[\w./]*)`", guide))
    known = typer.main.get_command(commands)
    for line in re.findall(r"tuner ((?:serve|token|db|study|best|status|report)\b[^`\n#]*)", guide):
        node, flags = known, re.findall(r"--[\w-]+", line)
        for word in line.split():
            node = getattr(node, "commands", {}).get(word, node)
        taken = {flag for parameter in node.params for flag in parameter.opts}
        assert set(flags) <= taken, line
