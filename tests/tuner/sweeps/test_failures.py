"""Which line says why, which reasons are the same, and when going on is pointless."""

import pytest

from tuner.sweeps.failures import ALIKE, LONGEST, Failures, telling_line
from workers.records import Status

TRACEBACK = """Traceback (most recent call last):
  File "/cache/ab12/main.py", line 1, in <module>
    import not_there  # error: not found
ModuleNotFoundError: No module named 'not_there'
"""
NINJA = """ninja: Entering directory `/home/someone/.cache/x'
[1/2] c++ -MMD -c main.cpp
FAILED: main.o
/bin/sh: 1: c++: not found
ninja: build stopped: subcommand failed.
RuntimeError: Ninja build failed
"""
GCC = """[1/2] g++ main.cpp
main.cpp: In function 'void run()':
main.cpp:3:3: error: 'to' was not declared in this scope
    3 |   to[i] = 1; // error: not this
main.cpp:9:1: error: expected '}' at end of input
"""


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (TRACEBACK, "ModuleNotFoundError: No module named 'not_there'"),
        (NINJA, "/bin/sh: 1: c++: not found"),
        (GCC, "main.cpp:3:3: error: 'to' was not declared in this scope"),
        ("output 1 differs by 0.5", "output 1 differs by 0.5"),
        ("first\n\nlast\n", "last"),
        ("  only indented  ", "only indented"),
        ("", ""),
    ],
)
def test_the_telling_line_of_a_log(message, line):
    assert telling_line(message) == line


def test_a_long_line_is_cut_in_the_middle():
    found = telling_line(f"ValueError: {'x' * 900} the end")
    assert len(found) <= LONGEST
    assert found.startswith("ValueError: x")
    assert found.endswith("the end")


def noted(failures, count, message="KeyError: 'n'", status=Status.RUNTIME_ERROR, first=0):
    for i in range(first, first + count):
        failures.note(f"hash{i}", status, message.replace("#", str(i)))


def test_the_same_reason_with_other_numbers_is_the_same():
    failures = Failures("hash0")
    noted(failures, ALIKE - 1, "main.py:#: RuntimeError: 0x7f# at /tmp/build#/x.so")
    assert not failures.is_pointless_to_go_on
    noted(failures, 1, "main.py:#: RuntimeError: 0x7f# at /tmp/build#/x.so", first=ALIKE)
    assert failures.is_pointless_to_go_on
    assert failures.lines() == [f"{ALIKE} x RUNTIME_ERROR: main.py:0: RuntimeError: 0x7f0 at /tmp/build0/x.so"]


def test_another_reason_a_pass_or_a_default_that_has_not_failed_means_going_on():
    other, passed, no_default, one_config = (Failures(h) for h in ("hash0", "hash0", "default", "hash0"))
    noted(other, ALIKE)
    noted(other, 1, "TypeError: x", first=ALIKE)
    noted(passed, 1, "", Status.RACED_OUT)
    noted(passed, ALIKE, first=1)
    noted(no_default, 2 * ALIKE)
    for _ in range(2 * ALIKE):
        noted(one_config, 1)
    assert not any(f.is_pointless_to_go_on for f in (other, passed, no_default, one_config))
    assert other.lines() == [f"{ALIKE} x RUNTIME_ERROR: KeyError: 'n'", "1 x RUNTIME_ERROR: TypeError: x"]


def test_a_failed_default_is_told_at_once_and_once(caplog):
    failures = Failures("hash0")
    noted(failures, 3)
    noted(failures, 3)
    assert caplog.messages == ["the default config failed: RUNTIME_ERROR: KeyError: 'n'"]
