"""Grids of the emulator: each CTA once, with its place along x, y and z.

The kernels' small inputs give one CTA along y; at a hidden size of 7168 the combine has seven.
"""

from __future__ import annotations

import numpy as np

from workers.emulator.machine import Launch, run
from workers.emulator.memory import GlobalMemory, Region
from workers.emulator.program import Program
from workers.emulator.ptx import read

OUT = 1 << 40
KERNEL = """
.visible .entry places(
	.param .u64 places_param_0
)
{
	.reg .b32 %r<9>;
	.reg .b64 %rd<5>;
	ld.param.b64 %rd1, [places_param_0];
	mov.u32 %r1, %ctaid.x;
	mov.u32 %r2, %ctaid.y;
	mov.u32 %r3, %ctaid.z;
	mov.u32 %r4, %nctaid.x;
	mov.u32 %r5, %nctaid.y;
	mad.lo.s32 %r6, %r3, %r5, %r2;
	mad.lo.s32 %r7, %r6, %r4, %r1;
	mul.wide.u32 %rd2, %r7, 4;
	add.s64 %rd3, %rd1, %rd2;
	add.s32 %r8, %r7, 100;
	st.global.b32 [%rd3], %r8;
	ret;
}
"""


def test_every_cta_of_a_grid_has_its_own_place():
    (kernel,) = read(KERNEL).values()
    found = np.zeros(2 * 3 * 4, np.int32)
    memory = GlobalMemory([Region("out", OUT, found.view(np.uint8))])
    launch = Launch("places", [OUT.to_bytes(8, "little")], (2, 3, 4), 32, 1, 0, False)
    assert launch.ctas == 24
    run(Program(kernel), launch, memory)
    assert found.tolist() == list(range(100, 124))
