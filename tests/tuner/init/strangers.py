"""What a stranger's file and its definition look like, for the tests of ``tuner init``."""

from search_spaces.targets import target_named
from tuner.init.make_space import make_space

HEAD = "import torch\nimport triton\nimport triton.language as tl\n\n"
DEFINITION = {
    "name": "copy_n",
    "op_type": "copy",
    "axes": {"n": {"type": "var"}},
    "inputs": {"x": {"shape": ["n"], "dtype": "float32"}},
    "outputs": {"out": {"shape": ["n"], "dtype": "float32"}},
    "reference": "def run(x):\n    return x.clone()\n",
}


def made(path, **words):
    return make_space(path, target_named("sm_90a"), ("sm_90a",), DEFINITION, **words)


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / next(iter(files))
