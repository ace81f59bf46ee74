"""Compiles a staged Solution and keeps the PTX of each config beside the library: ``python keep_ptx.py PACKAGE``."""

from __future__ import annotations

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
    import cutlass.cute as cute

    host = importlib.import_module(f"{folder.name}.host")
    out = folder / "artifacts"
    out.mkdir()
    objects = []
    for _, config in build.TABLE:
        name = build.function_name(config)
        with tempfile.TemporaryDirectory() as dump:
            options = f"--enable-tvm-ffi --gpu-arch {build.TARGET} --keep-ptx --dump-dir {dump}"
            compiled = cute.compile(host.Moe(config, build.SIZES), *build._arguments(), options=options)
            (out / f"{name}.ptx").write_text(compiled.artifacts.PTX)
        objects.append(out / f"{name}.o")
        compiled.export_to_c(str(objects[-1]), function_name=name)
    build._link(objects, out / build.LIBRARY)
    for path in objects:
        path.unlink()


if __name__ == "__main__":
    main()
