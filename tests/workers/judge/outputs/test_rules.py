"""Which rule an output gets: one table, what users and definitions set above it, what the reference shows below it."""

import re

import pytest

from workers.judge.outputs.rules import DEFAULT, LOW_BIT, Asked, Kind, for_official_run, rules_for, unjudgeable

MOE = "moe_fp8_block_scale_ds_routing_topk8_ng8_kg4_e32_h7168_i2048"


def definition(name="d", op_type="toy", tags=(), inputs=(), **outputs):
    spec = {o: {"shape": ["n"], "dtype": dtype} for o, dtype in outputs.items()}
    given = {f"x{i}": {"shape": ["n"], "dtype": dtype} for i, dtype in enumerate(inputs)}
    return {"name": name, "op_type": op_type, "tags": list(tags), "inputs": given, "outputs": spec}


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        (definition(y="float32"), Kind.CLOSE),
        (definition(y="bfloat16"), Kind.CLOSE),
        (definition(y="float8_e4m3fn"), Kind.STEPS),
        (definition(y="float8_e5m2", op_type="quantize"), Kind.STEPS),
        (definition(y="int8", name="per_token_quant_int8"), Kind.STEPS),
        (definition(y="int8"), Kind.EXACT),
        (definition(y="int64"), Kind.EXACT),
        (definition(y="bool"), Kind.EXACT),
        (definition(topk_indices="int32", op_type="dsa"), Kind.SELECTED),
        (definition(ids="int64", name="moe_topk_softmax"), Kind.SELECTED),
        (definition(counts="int32", name="moe_topk_softmax"), Kind.EXACT),
        (definition(samples="int64"), Kind.DRAWN),
        (definition(token="int32", op_type="sampling"), Kind.DRAWN),
        (definition(probs="float32", op_type="sampling"), Kind.CLOSE),
    ],
)  # fmt: skip
def test_rule_of_an_output_follows_dtype_and_names(document, kind):
    (rule,) = rules_for(document)
    assert rule.kind is kind


def test_low_bit_moe_has_its_own_tolerance():
    assert rules_for(definition(MOE, "moe", output="bfloat16"))[0].tolerance == LOW_BIT
    fp8_inputs = definition("trtllm_moe", "moe", inputs=["float8_e4m3fn"], output="bfloat16")
    assert rules_for(fp8_inputs)[0].tolerance == LOW_BIT
    assert rules_for(definition("moe_bf16", "moe", inputs=["bfloat16"], output="bfloat16"))[0].tolerance == DEFAULT
    assert rules_for(definition("gemm_fp8", "gemm", inputs=["float8_e4m3fn"], C="float16"))[0].tolerance == DEFAULT


def test_a_setting_for_an_output_goes_before_one_for_all_and_leaves_the_others_alone():
    document = definition(out="bfloat16", lse="float32", ids="int32")
    asked = Asked(rtol={"": 1e-3, "lse": 1e-4}, atol={"lse": 1e-5}, required_matched_ratio={"out": 0.9})
    out, lse, ids = rules_for(document, asked)
    assert (out.tolerance.rtol, out.tolerance.atol, out.tolerance.by_scale) == (1e-3, 1e-3, True)
    assert (out.tolerance.required_matched_ratio, lse.tolerance.required_matched_ratio) == (0.9, 1.0)
    assert (lse.tolerance.rtol, lse.tolerance.atol, lse.tolerance.by_scale) == (1e-4, 1e-5, False)
    assert ids.kind is Kind.EXACT


def test_a_tolerance_for_an_fp8_output_or_a_tag_or_a_flag_changes_its_kind():
    (rule,) = rules_for(definition(y="float8_e4m3fn"), Asked(rtol={"y": 0.2}))
    assert (rule.kind, rule.why) == (Kind.CLOSE, "as set")
    (rule,) = rules_for(definition(y="int32", tags=["judge:y=selected", "status:verified"]))
    assert (rule.kind, rule.why) == (Kind.SELECTED, "the definition's tag")
    (rule,) = rules_for(definition(y="int32", tags=["judge:y=selected"]), Asked(judge={"y": "exact"}))
    assert rule.kind is Kind.EXACT


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Asked(rtol={"z": 1e-3}), "names output 'z'; the outputs are y, i"),
        (Asked(judge={"y": "selected"}), "'y' (float32) cannot be judged as 'selected'; allowed are close"),
        (Asked(judge={"i": "often"}), "allowed are close, exact, steps, selected, drawn"),
    ],
)
def test_a_setting_that_fits_no_output_is_one_line(asked, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        rules_for(definition(y="float32", i="int32"), asked)


@pytest.mark.parametrize("where", ["inputs", "outputs"])
def test_fp4_is_refused_by_name(where):
    document = definition("nv", inputs=["float32"], y="float32")
    document[where]["packed"] = {"shape": ["n"], "dtype": "float4_e2m1"}
    said = unjudgeable(document)
    assert "definition 'nv'" in said
    assert f"{where[:-1]} 'packed' is float4_e2m1" in said
    assert unjudgeable(definition(y="float8_e4m3fn")) is None


def test_stock_flashinfer_bench_is_told_the_loosest_tolerance():
    rules = rules_for(definition(out="bfloat16", lse="float32"), Asked(rtol={"lse": 1e-3}))
    rule = for_official_run(rules, scale=200.0)
    # Would catch an export that is refused for the few floats that our judge lets be further off.
    assert (rule.rtol, rule.atol, rule.required_matched_ratio) == (1e-2, 2.0, 0.999)
    absolute = for_official_run(rules_for(definition(out="bfloat16"), Asked(atol={"": 1e-3})), scale=200.0)
    assert (absolute.atol, absolute.required_matched_ratio) == (1e-3, 1.0)
    low = for_official_run(rules_for(definition(MOE, "moe", output="bfloat16")), scale=2000.0)
    assert (low.rtol, low.atol, low.required_matched_ratio) == (0.2, 0.1, 0.85)
