"""Errors of libraries as users read them."""

import pytest

from workers.errors import LONGEST, one_line

DIED = """The actor died unexpectedly before finishing this task.
\tclass_name: EvaluatorActor
\tactor_id: f6a1c51d3c1d2a5f8c1e7f4901000000
\tpid: 4242
\tnamespace: 2c0f
\tip: 10.0.0.7
The actor is dead because its worker process has died."""
TASK = """\x1b[36mray::EvaluatorActor.__init__()\x1b[39m (pid=4242, ip=10.0.0.7)
  File "/x/actors.py", line 3, in __init__
RuntimeError: no such device"""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (DIED, f"{DIED.splitlines()[0]} {DIED.splitlines()[-1]}"),
        (TASK, "RuntimeError: no such device"),
        ("Traceback (most recent call last):\n  File x\nKeyError: 'a'", "KeyError: 'a'"),
        ("\x1b[1;31mred\x1b[0m\n  and  more", "red and more"),
        ("", "RuntimeError"),
    ],
)  # fmt: skip
def test_an_error_is_one_line_without_what_is_ray_s_own(text, line):
    assert one_line(RuntimeError(text)) == line


def test_an_error_is_not_longer_than_a_line():
    assert len(one_line(RuntimeError("x" * 5000))) == LONGEST
