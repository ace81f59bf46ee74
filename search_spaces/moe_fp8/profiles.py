"""The input generator of the MoE families."""

from __future__ import annotations

from pathlib import Path

from search_spaces.inputs.generator import InputGenerator


def routing_profiles() -> InputGenerator:
    """Makes routing logits by profile: uniform, Zipf, hot experts and so on."""
    path = Path(__file__).with_name("routing_profiles.py")
    return InputGenerator(path.name, path.read_text(encoding="utf-8"))
