"""RMS norm in CuTe DSL: a warp for each row, which stays in registers between its sum and its result."""

import cutlass
import cutlass.cute as cute
from cutlass import BFloat16, Float32, Int32

EPSILON = 1e-6
WARP = 32


class RmsNorm:
    """One config for rows of one length.

    Shapes:
        x, out: [rows, hidden] bfloat16, row-major. weight: [hidden] bfloat16. All at multiples of 16 bytes.
    """

    def __init__(self, hidden, rows, width, weight):
        self.hidden = hidden
        self.rows = rows
        self.width = width
        self.weight_early = weight == "early"
        self.loads = hidden // (WARP * width)

    @cute.jit
    def __call__(self, x: cute.Tensor, weight: cute.Tensor, out: cute.Tensor, stream):
        """Launch a block for every ``rows`` rows."""
        count = x.shape[0]
        self.kernel.set_name_prefix("rmsnorm", remove_cutlass_symbol=True, keep_mangled_name=False)
        self.kernel(x, weight, out, count).launch(
            grid=((count + self.rows - 1) // self.rows, 1, 1), block=(WARP * self.rows, 1, 1), stream=stream
        )

    @cute.kernel
    def kernel(self, x: cute.Tensor, weight: cute.Tensor, out: cute.Tensor, count: Int32):
        """Load, sum, scale, store."""
        row = cute.arch.block_idx()[0] * self.rows + cute.arch.warp_idx()
        if row < count:
            mine = self.load(x.iterator + cutlass.Int64(row) * self.hidden)
            if cutlass.const_expr(self.weight_early):
                by = self.load(weight.iterator)
            total = Float32(0.0)
            for i in cutlass.range_constexpr(self.loads * self.width):
                total = total + mine[i] * mine[i]
            for step in (16, 8, 4, 2, 1):
                total = total + cute.arch.shuffle_sync_bfly(total, offset=step)
            scale = cute.math.rsqrt(total / Float32(self.hidden) + Float32(EPSILON))
            if cutlass.const_expr(not self.weight_early):
                by = self.load(weight.iterator)
            for load in cutlass.range_constexpr(self.loads):
                part = cute.make_rmem_tensor((self.width,), BFloat16)
                for j in cutlass.range_constexpr(self.width):
                    at = load * self.width + j
                    part[j] = (mine[at] * scale * by[at]).to(BFloat16)
                cute.autovec_copy(part, self.part(out.iterator + cutlass.Int64(row) * self.hidden, load))

    @cute.jit
    def part(self, start, load):
        """The values of one load of this lane, from the start of a row."""
        at = start + (load * WARP + cute.arch.lane_idx()) * self.width
        return cute.make_tensor(at.align(2 * self.width), cute.make_layout(self.width))

    @cute.jit
    def load(self, start):
        """All values of a row that belong to this lane, as float32."""
        values = cute.make_rmem_tensor((self.loads * self.width,), Float32)
        for load in cutlass.range_constexpr(self.loads):
            part = cute.make_rmem_tensor((self.width,), BFloat16)
            cute.autovec_copy(self.part(start, load), part)
            for j in cutlass.range_constexpr(self.width):
                values[load * self.width + j] = part[j].to(Float32)
        return values
