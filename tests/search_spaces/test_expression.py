"""Constraint expressions: right values, and nothing but SpaceError for wrong text."""

import contextlib
import pickle

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from search_spaces.expression import compile_expression
from search_spaces.parameters import SpaceError

NAMES = ("a", "b", "mode")
CONFIG = {"a": 6, "b": 4, "mode": "flat"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a * b + 1", 25),
        ("a // b - a % b", -1),
        ("a / b", 1.5),
        ("-a < +b", True),
        ("2 < a <= 6 < b", False),
        ("mode == 'flat' and a > b", True),
        ("mode in ('batched', 'masked') or not a", False),
        ("mode not in ['flat']", False),
        ("min(a, b) + max(a, b, 9) + abs(-a) + len(mode)", 23),
        ("a if mode == 'flat' else b", 6),
        ("32 % ((a * b) / 2) == 8", True),
    ],
)
def test_value(text, value):
    assert compile_expression(text, NAMES)(CONFIG) == value


def test_short_circuit_guards_a_division():
    guarded = compile_expression("b == 0 or a % b == 0", NAMES)
    assert guarded({"a": 6, "b": 0}) is True


def test_names_are_those_read():
    assert compile_expression("a > 1 and mode != 'x'", NAMES).names == ("a", "mode")


def test_survives_pickling():
    assert pickle.loads(pickle.dumps(compile_expression("a > b", NAMES)))(CONFIG) is True


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a +", "not an expression"),
        ("c > 1", "unknown 'c'; known are a, b, mode"),
        ("a ** 9", "'a ** 9', which is not allowed"),
        ("a.real", "not allowed"),
        ("mode[0:1]", "not allowed"),
        ("__import__('os')", "not allowed"),
        ("(lambda: 1)()", "not allowed"),
        ("[x for x in (1, 2)]", "not allowed"),
        ("min(*a)", "not allowed"),
        ("max(a, key=b)", "not allowed"),
        ("a is b", "compare with =="),
        ("a" * 3000, "at most 2000"),
        ("-" * 1900 + "a", "nested"),
    ],
)
def test_refused_when_compiled(text, part):
    with pytest.raises(SpaceError, match="expression") as caught:
        compile_expression(text, NAMES)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["a % (b - 4)", "mode + a", "mode * 1000000", "a in b", "mode < a", "len(a)", "min(a)"]
)
def test_refused_when_evaluated(text):
    with pytest.raises(SpaceError, match=r"a=6|b=4|mode='flat'"):
        compile_expression(text, NAMES)(CONFIG)


TOKENS = [*NAMES, "1", "0", "'x'", "(", ")", ",", "+", "-", "*", "/", "//", "%", "<", "==", "in", "not", "and", "or",
          "if", "else", "len", "max", "[", "]", ".", "**", "is", "lambda", ":", "1e999", "\n"]  # fmt: skip


@given(st.lists(st.sampled_from(TOKENS), max_size=12).map(" ".join) | st.text(max_size=40))
@example("1e999 // 1")
@example("a\x00")
def test_any_text_gives_a_value_or_a_space_error(text):
    with contextlib.suppress(SpaceError):
        compile_expression(text, NAMES)(CONFIG)
