"""Mistakes planted in the kernels are found, in the kernel in which they are.

A mistake runs on what the right kernels before it leave, so one pipeline for each config serves all of its mistakes.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("cutlass", reason="nvidia-cutlass-dsl is not installed")

from benchmarks.emulation.method import method
from search_spaces.emulated_case import EmulatedCase, StageError
from search_spaces.moe_fp8_cute.routings import Routing
from search_spaces.moe_fp8_cute.stages import cases
from tests.search_spaces.moe_fp8_cute.mistakes import MISTAKES, ROUTING, Edit, Mistake, begins, without
from workers.emulator import machine
from workers.emulator.errors import EmulatorError
from workers.emulator.host.launches import Call
from workers.emulator.machine import run
from workers.emulator.memory import GlobalMemory
from workers.emulator.pipeline import Module, fresh_memory, short_name, steps
from workers.emulator.program import Program
from workers.emulator.ptx import Instruction, Kernel

SAMPLE = [
    "swizzle of A is that of 64 bytes", "two registers of a load are exchanged", "loads are not waited for",
    "weights of the next expert", "no proxy fence before the MMA", "the two N are exchanged",
    "a multicast reaches its first CTA alone", "sums are read one group early", "rows are taken before they are left",
    "the second launch ends before the first", "rows are read before they are copied",
    "a piece of every lane is not cleared",
]  # fmt: skip
"""Those of the default run; the others are slow together."""


class Before:
    """Memory as each kernel of a call finds it."""

    def __init__(self, built, row: int, routing: Routing):
        (self.case,) = cases(built.configs[row], built.space.sizes, built.space.target, [routing])
        self.call: Call = built.host.call(self.case.size, row, self.case.offset, self.case.scaling)
        self.module = Module(built.folder / "artifacts" / f"{self.call.function}.ptx")
        self.memory = fresh_memory(self.call, dict(self.case.inputs))
        self.found: dict[str, tuple] = {}
        for number, launch in enumerate(self.call.launches):
            self.memory.next_kernel(launch.pdl, short_name(launch.kernel) in self.case.beside)
            data = {name: r.data.copy() for name, r in self.memory.by_name.items()}
            order = self.memory.running_writes, self.memory.running_touches, self.memory.must_wait
            self.found[short_name(launch.kernel)] = number, launch, data, order
            run(self.module.program(launch.kernel), launch, self.memory, 1000 * number)

    def verdict(self, mistake: Mistake) -> str | None:
        """What a kernel with a mistake shows, None if nothing does."""
        number, launch, data, order = self.found[mistake.kernel]
        memory: GlobalMemory = self.memory
        for name, region in memory.by_name.items():
            region.data[:] = data[name]
        memory.running_writes, memory.running_touches, memory.must_wait = order
        program = Program(mistake.edit(self.module.kernels[launch.kernel]))
        try:
            run(program, launch, memory, 1000 * number)
            case: EmulatedCase = self.case
            case.check(mistake.kernel, {name: r.data for name, r in memory.by_name.items()})
        except (EmulatorError, StageError) as error:
            return f"{type(error).__name__}: {error}"
        return None


@pytest.fixture(scope="module")
def before(small_solution):
    """Makes what a config's kernels find, once."""
    made: dict[tuple[str, Routing], Before] = {}

    def get(config: str, routing: Routing) -> Before:
        if (config, routing) not in made:
            made[config, routing] = Before(small_solution, small_solution.names.index(config), routing)
        return made[config, routing]

    return get


def check(before, small_solution, name: str, record_property) -> None:
    """One mistake, if it belongs to the target that is built; what was seen goes into a JUnit report."""
    mistake = MISTAKES[name]
    if mistake.target != small_solution.space.target:
        pytest.skip(f"it is planted for {mistake.target}")
    record_property("fingerprint", small_solution.space.fingerprint)
    record_property("method", method())
    record_property("kernel", mistake.kernel)
    found = before(mistake.config, mistake.routing).verdict(mistake)
    assert found is not None, f"nothing was seen of: {name}"
    record_property("seen", found)


@pytest.mark.parametrize("name", [n for n in MISTAKES if n.partition(": ")[2] in SAMPLE])
def test_a_mistake_is_seen(before, small_solution, name, record_property):
    check(before, small_solution, name, record_property)


def test_who_starts_behind_an_empty_launch_waits_for_what_it_reads(small_solution):
    """All rows are on one expert: GEMM 2's launch for few rows has nothing to do and lets the other start at once."""
    target = small_solution.space.target
    row = small_solution.names.index("split")
    before = Before(small_solution, row, Routing("all on one", 20, "one_expert"))
    _, launch, *_ = before.found["moe_gemm_2_many"]
    waits = sum(begins("griddepcontrol", "wait")(i) for i in before.module.kernels[launch.kernel].code)
    found = [
        before.verdict(Mistake("", target, "split", "moe_gemm_2_many", without(begins("griddepcontrol", "wait"), n)))
        for n in range(waits)
    ]
    too_early = [text for text in found if text is not None]
    assert len(too_early) >= 2, found  # who brings the rows, and who adds to the output
    assert all("before griddepcontrol.wait" in text for text in too_early), found


def rows_there(kernel: Kernel) -> Kernel:
    """The counters of a tile's rows, the first that GEMM 2 loads, seem to be complete."""
    loads = [n for n, i in enumerate(kernel.code) if begins("ld", "acquire")(i)][:2]
    code = list(kernel.code)
    for n in loads:
        code[n] = Instruction("mov.b32", [code[n].operands[0], "1000"], code[n].guard)
    return replace(kernel, code=code)


def never_cleared(kernel: Kernel) -> Kernel:
    """The weight warp, whose reductions come first, never says that it has cleared its part of the output."""
    release = begins("red", "release")
    return without(release, 0)(without(release, 0)(kernel))


BETWEEN = {
    "rows are read before GEMM 1 has stored them": ("moe_gemm_2", rows_there, "elements are wrong"),
    "nobody says what is cleared": ("moe_gemm_1", never_cleared, "no end"),
    "GEMM 2 ends without GEMM 1": ("moe_gemm_2", without(begins("griddepcontrol", "wait")), "would not have waited"),
    "a claim is not told": ("moe_gemm_2", without(begins("st", "async"), 1), "waits at line"),
}
"""What is planted in a config whose GEMMs run side by side: kernel, edit, what the verdict says."""


def seen_between(built, case: EmulatedCase, row: int, mistaken: str, edit: Edit) -> str:
    """What a call shows one of whose kernels has a mistake; nothing if it is right."""
    call = built.host.call(case.size, row, case.offset, case.scaling)
    module = Module(built.folder / "artifacts" / f"{call.function}.ptx")
    for launch in call.launches:
        if short_name(launch.kernel) == mistaken:
            module.kernels[launch.kernel] = edit(module.kernels[launch.kernel])
    memory = fresh_memory(call, dict(case.inputs))
    try:
        for launch in steps(module, call, memory, 0, case.beside, case.fed):
            case.check(short_name(launch.kernel), {name: r.data for name, r in memory.by_name.items()})
    except (EmulatorError, StageError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", BETWEEN)
def test_a_mistake_between_two_kernels_that_run_side_by_side_is_seen(small_solution, name, monkeypatch):
    if small_solution.space.target != "sm_90a":
        pytest.skip("only Hopper's GEMMs hand tiles over")
    monkeypatch.setattr(machine, "TURNS", 4000)
    kernel, edit, said = BETWEEN[name]
    row = small_solution.names.index("feed")
    (case,) = cases(small_solution.configs[row], small_solution.space.sizes, "sm_90a", [ROUTING])
    assert said in seen_between(small_solution, case, row, kernel, edit)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in MISTAKES if n.partition(": ")[2] not in SAMPLE])
def test_every_mistake_is_seen(before, small_solution, name, record_property):
    check(before, small_solution, name, record_property)
