"""Config lists are read from a file's text: loops, comprehensions, functions, questions about the machine."""

import ast

import pytest

from search_spaces.targets import target_named
from tuner.init.source.expressions import UnreadableError
from tuner.init.source.known_answers import TritonConfig, answers_for
from tuner.init.source.static_values import StaticFile


def value(text: str, expression: str = "found"):
    static = StaticFile(ast.parse(text), answers_for(target_named("sm_90a")))
    behind = text.count("\n") + 1
    return static.value(ast.increment_lineno(ast.parse(expression, mode="eval"), behind).body)


READ = [
    ("found = [a * b for a in (1, 2) for b in (3, 4) if a + b != 5]", [3, 8]),
    (
        "import itertools\nfound = [x for x in itertools.product([1, 2], 'ab')]",
        [(1, "a"), (1, "b"), (2, "a"), (2, "b")],
    ),
    (
        "found = []\nfor n in range(3):\n    if n == 1:\n        continue\n    found.append(n)\nfound += [9]",
        [0, 2, 9],
    ),
    (
        "def sizes(most=64, *, step):\n    n, out = step, []\n    while n <= most:\n        out.append(n)\n"
        "        n *= 2\n    return out\nfound = sizes(step=16)",
        [16, 32, 64],
    ),
    (
        "found, n = [], 0\nwhile n < 2:\n    n += 1\nelse:\n    found.append('all')\n"
        "for n in range(3):\n    if n == 1:\n        break\nelse:\n    found.append('no')",
        ["all"],
    ),
    ("LIMIT = 2\nfound = list(filter(lambda n: n > LIMIT, [1, 2, 3]))", [3]),
    (
        "import triton\ndef cuda():\n    return triton.runtime.driver.active.get_current_target().backend == 'cuda'\n"
        "found = 1 if cuda() else 2",
        1,
    ),
    (
        "import torch\nhip = torch.version.hip\n"
        "found = [4] if hip is None and torch.cuda.get_device_capability()[0] >= 9 else [8]",
        [4],
    ),
    ("import os\nfound = int(os.environ.get('WARPS', '4')) if 'QUICK' not in os.environ else 0", 4),
    (
        "from functools import partial\ndef keep(n, least):\n    return n >= least\n"
        "found = list(filter(partial(keep, least=2), [1, 2]))",
        [2],
    ),
    ("import copy\nfound = [[1]]\nmore = copy.deepcopy(found)\nmore[0].append(2)\ncopy.copy(found).append(3)", [[1]]),
    ("n = 2\nfound = f'{n}x{n + 1}'", "2x3"),
    ("class Limits:\n    MOST: int = 2 * 32\n    low = MOST // 2\nfound = [Limits.MOST, Limits.low]", [64, 32]),
    ("import torch\nfound = [1] if torch.are_deterministic_algorithms_enabled() else [1, 2]", [1, 2]),
    ("if 1 < 2:\n    other = unknown()\n    found = [n for n in (1, 2)]", [1, 2]),
    ("base = dict(num_warps=4)\nfound = {**base, 'BLOCK': 2 ** 5}", {"num_warps": 4, "BLOCK": 32}),
]


@pytest.mark.parametrize(("text", "expected"), READ)
def test_what_follows_from_the_text_is_read(text, expected):
    assert value(text) == expected


def test_configs_are_read_with_their_launch_options():
    text = "from triton import Config\nfound = [Config({'B': b}, num_warps=4 * b, maxnreg=128) for b in (1, 2)]"
    assert value(text) == [
        TritonConfig({"B": 1}, num_warps=4, maxnreg=128),
        TritonConfig({"B": 2}, num_warps=8, maxnreg=128),
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import torch\nfound = torch.load('best')", "line 2: torch.load"),
        ("found = open('configs.json').read()", "open is not known"),
        ("found = [1]\nfor n in unknown():\n    found.append(n)", "line 2: unknown is not known"),
        ("def f():\n    return f()\nfound = f()", "too deeply"),
        ("found = 0\nwhile True:\n    found += 1", "steps"),
        ("found = 2 ** 64 ** 9", "too large"),
        ("found = [0] * 10 ** 9", "line 1"),
        ("from itertools import product\nfound = list(product(range(99), repeat=9))", "line 2: a list is too long"),
        ("found = [1]\ntry:\n    found.extend(unknown())\nexcept NameError:\n    pass", "line 3: unknown is not known"),
        ("found = [1]\nwith unknown():\n    found.append(2)", "line 2: a With statement is not read"),
        ("found = {'a': 1}\nfound['a'] = [*unknown()]", "line 2: unknown is not known"),
        ("class A:\n    b = 1\nA.b = 2\nfound = A.b", "line 3"),
        (
            "if 1 < 2:\n    found = [1]\n    found.append(unknown())\n    found.append(2)",
            "line 3: unknown is not known",
        ),
        ("found = [0]\nfor n in (1, 2):\n    if n:\n        found.append(unknown())", "line 4: unknown is not known"),
        ("class A:\n    b = unknown()\nfound = A.b", "line 1: class A is not read"),
        ("found = f'{2:02d}'", "has a format, which is not read"),
        ("found = ().__class__.__base__.__subclasses__()", "__class__ is not read"),
    ],
)
def test_what_does_not_follow_is_said_and_nothing_is_run(text, why):
    """Catches a list that is half built, endless code, and a way from a value to the interpreter's own classes."""
    with pytest.raises(UnreadableError, match=why):
        value(text)


def test_a_name_that_is_used_again_has_the_value_of_its_place():
    """Catches the list of a benchmark further down, of the same name, in the place of a kernel's configs."""
    tree = ast.parse("found = [1]\nhere = found\nfound = [2]\n")
    static = StaticFile(tree, answers_for(target_named("sm_90a")))
    assert static.value(tree.body[1].value) == [1]
