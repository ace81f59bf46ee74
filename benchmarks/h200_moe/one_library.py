"""A pool of configs in one library, from which any dispatch table of them can be made without compiling again.

    python benchmarks/h200_moe/one_library.py build POOL CONFIGS --dataset DIR   # CONFIGS: JSON, name -> config
    python benchmarks/h200_moe/one_library.py variants POOL OUT                  # a folder per config
    python benchmarks/h200_moe/one_library.py solution POOL OUT TABLE            # TABLE: JSON, [[bound or null, name]]

A Solution finds its compiled functions by the hash of their config, so the sources of an exported table and the pool's
library are that Solution: what is not in the table is never called. Each config is built by the Solution's own
``build`` in a process of its own, which refuses it by plan, registers and spills as everywhere; a config that does not
build is not in the pool, and the command ends with exit code 1. Kernels are kept in a folder of the pool meanwhile, so
that the library of them all is only linked.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PACKAGE = "pool"
PARTS = "parts"
_BUILD = """
import contextlib, importlib, json, sys, tempfile
from pathlib import Path
folder, parts, out, configs = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
sys.path.insert(0, str(folder.parent))
b = importlib.import_module(folder.name + ".build")
b.TABLE = [(None, config) for config in configs]

def kept(wanted, make):
    for name, document in wanted.items():
        part = parts / name
        if not part.is_dir():
            staged = Path(tempfile.mkdtemp(dir=parts))
            make(document, staged)
            with contextlib.suppress(OSError):  # somebody else was faster
                staged.rename(part)
        yield name, part

figures = b.build(out or tempfile.mkdtemp(dir=parts), kept=kept)["kernels"]
print(json.dumps({name: figure for name, figure in figures.items() if "gemm" in name}))
"""


def _build(folder: Path, out: str, configs: list[dict]) -> subprocess.CompletedProcess[str]:
    """Build configs of the staged pool into one library in ``out``, or into one that is thrown away."""
    parts = folder.parent / PARTS
    parts.mkdir(exist_ok=True)
    command = [sys.executable, "-c", _BUILD, str(folder), str(parts), out, json.dumps(configs)]
    return subprocess.run(command, capture_output=True, text=True)


def compile_one(folder: Path, name: str, config: dict) -> tuple[bool, str]:
    """Build one config of the staged pool: whether that went well, and the line to report."""
    done = _build(folder, "", [config])
    said = done.stdout.strip() if not done.returncode else "FAILED " + done.stderr.strip()[-300:]
    return not done.returncode, f"{name}: {said}"


def build(pool: Path, configs: dict[str, dict], dataset: Path, jobs: int) -> list[str]:
    """Compile every config and link those that build; the names of the others."""
    import product  # noqa: F401
    from problems import MAIN

    from search_spaces.registry import space_for

    definition = json.loads(next(dataset.glob(f"definitions/*/{MAIN.name}.json")).read_text())
    space = space_for(definition, "sm_90a", "moe_fp8_cute")
    whole = {name: space.check({**space.default, **config}) for name, config in configs.items()}
    for name, config in whole.items():
        if why := space.violation(config):
            raise SystemExit(f"{name}: {why}")
    folder = pool.resolve() / PACKAGE
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "artifacts").mkdir(parents=True)
    for path, text in space.variant_sources(space.default).items():
        (folder / path).write_text(text)
    failed = []
    with ThreadPoolExecutor(jobs) as threads:
        for name, (is_built, line) in zip(
            whole, threads.map(lambda name: compile_one(folder, name, whole[name]), whole), strict=True
        ):
            print(line, flush=True)
            if not is_built:
                failed.append(name)
    if len(failed) == len(whole):
        return failed
    built = {n: c for n, c in whole.items() if n not in failed}
    (pool / "configs.json").write_text(json.dumps(built))
    linked = _build(folder, str(folder / "artifacts"), list(built.values()))
    if linked.returncode:
        raise SystemExit(f"the library of the pool cannot be linked: {linked.stderr.strip()[-300:]}")
    shutil.rmtree(folder.parent / PARTS)
    return failed


def unfold(pool: Path, folder: Path, rows: list[tuple[int | None, dict]]) -> None:
    """A Solution with this table, and the pool's library."""
    shutil.copytree(pool / PACKAGE, folder, ignore=shutil.ignore_patterns("artifacts", "__pycache__"))
    config = folder / "config.py"
    config.write_text(f"{config.read_text()}\n\nTABLE = {rows!r}\n")
    (folder / "artifacts").symlink_to((pool / PACKAGE / "artifacts").resolve())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("build", "variants", "solution"))
    parser.add_argument("pool", type=Path)
    parser.add_argument("rest", type=Path, nargs="+")
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    if args.what == "build":
        failed = build(args.pool, json.loads(args.rest[0].read_text()), args.dataset, args.jobs)
        if failed:
            raise SystemExit(f"{len(failed)} configs do not build and are not in the pool: {', '.join(failed)}")
        return
    configs = json.loads((args.pool / "configs.json").read_text())
    if args.what == "variants":
        for name, config in configs.items():
            unfold(args.pool, args.rest[0] / name, [(None, config)])
            (args.rest[0] / name / "variant.json").write_text(json.dumps({"config": config}))
    else:
        table = json.loads(args.rest[1].read_text())
        unfold(args.pool, args.rest[0], [(bound, configs[name]) for bound, name in table])


if __name__ == "__main__":
    main()
