"""Verdicts of before stand for kernels that are the same; a test that calls different ones the same would keep them."""

from __future__ import annotations

from benchmarks.emulation.kernels import compared, digests

PTX = """
.version 8.7
.target sm_100a
.visible .entry {name}(
	.param .u64 {name}_param_0
)
{{
	.loc 1 {line} 3
	ld.param.u64 %rd1, [{name}_param_0]; // begin
$L__BB{label}_1:
	{first};
	{second};
	bra $L__BB{label}_1;
}}
"""


def module(name: str = "moe_gemm_1", line: int = 10, label: int = 0, first: str = "add.f32 %f1, %f2, %f3",
           second: str = "mul.f32 %f4, %f5, %f6") -> str:  # fmt: skip
    return PTX.format(name=name, line=line, label=label, first=first, second=second)


def verdict(then: str, now: str) -> str:
    found = compared({"config": digests(then)}, {"config": digests(now)})
    (name,) = [name for name, hashes in found.items() if hashes]
    return name


def test_names_labels_and_places_do_not_count():
    assert verdict(module(), module(name="gemm_1_of_two", line=99, label=7)) == "same"


def test_kernels_may_stand_in_one_module_or_in_two():
    other = module(name="permute", first="sub.s32 %r1, %r2, %r3")
    assert verdict(module() + other, other + module(label=3)) == "same"


def test_another_order_is_said():
    turned = module(first="mul.f32 %f4, %f5, %f6", second="add.f32 %f1, %f2, %f3")
    assert verdict(module(), turned) == "reordered"


def test_another_instruction_an_immediate_or_a_missing_kernel_are_different():
    assert verdict(module(), module(first="sub.f32 %f1, %f2, %f3")) == "different"
    assert verdict(module(), module(first="add.f32 %f1, %f2, 0f3F800000")) == "different"
    assert verdict(module() + module(name="permute"), module()) == "different"
