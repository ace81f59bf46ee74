"""Compiles a staged Solution and keeps the PTX of each config beside the library: ``python keep_ptx.py PACKAGE``."""

from __future__ import annotations

import functools
import importlib
import os
import sys
import tempfile
from pathlib import Path


def main() -> None:
    folder = Path(sys.argv[1])
    sys.path.insert(0, str(folder.parent))
    build = importlib.import_module(f"{folder.name}.build")
    os.environ["CUTE_DSL_ARCH"] = build.TARGET
    configs = {build.function_name(config): config for _, config in build.TABLE}
    out = folder / "artifacts"
    out.mkdir()
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch)
        # Whatever spills is executed all the same.
        kept = build.in_folder(made, functools.partial(build.make, keep=True))
        build.compile_configs(configs, out, kept, judge=lambda document, figures: None)
        for name, config in configs.items():
            symbols = map(build.symbol, build.kernels(config, build.SIZES, build.TARGET))
            (out / f"{name}.ptx").write_text("\n".join((made / f"{s}.ptx").read_text() for s in symbols))


if __name__ == "__main__":
    main()
