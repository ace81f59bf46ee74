"""The host function of a config: every kernel of the pipeline, launched back to back on one stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cutlass.cute as cute
from cutlass import Int32, Int64
from cutlass._mlir import ir
from cutlass._mlir.dialects import cuda, llvm

from .kernel import CALLER, SCALARS, SLOTS
from .pipeline import Document, place, symbol
from .workspace import ALWAYS, OPTIONAL, cut

OPAQUE_POINTER = 4
"""tvm-ffi's type of an argument that is an address (TVMFFITypeIndex.kTVMFFIOpaquePtr)."""
INTEGER = 1


class Host:
    """Cuts the workspace and calls the kernels, which are objects of their own, in order.

    Every kernel reads and writes the caller's tensors and sections of one workspace (workspace.py); nothing is
    allocated and nothing comes back to the host, so a CUDA graph can hold it.

    It is made from its document (pipeline.host) and nothing else. Configs with the same sections and as many kernels
    share it, so it calls its kernels by their places, and the linker says which those are.
    """

    def __init__(self, document: Document):
        self.sizes = document["sizes"]
        self.optional = document["sections"]
        self.kernels = [place(symbol(document), i) for i in range(document["kernels"])]

    @cute.jit
    def __call__(self, logits, bias, x, xs, w13, s13, w2, s2, offset, scaling, out, workspace, rows, max_m, stream):
        """Launch the pipeline.

        Shapes:
            logits: [T, E] float32 or bfloat16. bias: [E] bfloat16 or None. x: [T, H] FP8. xs: [H/128, T] float32.
            w13: [E_local, 2 I, H] FP8. s13: [E_local, 2 I/128, H/128]. w2: [E_local, H, I] FP8.
            s2: [E_local, H/128, I/128]. out: [T, H] bfloat16.
            workspace: bytes. rows: capacity P of the row space. max_m: rows of an expert in the batched layout.
        """
        tokens = x.shape[0]
        at = cut(self.optional, self.sizes, Int64(tokens), Int64(rows))
        caller = dict(zip(CALLER, (logits, bias, x, xs, w13, s13, w2, s2, out), strict=True))
        scalars = dict(zip(SCALARS, (tokens, rows, max_m, offset, scaling), strict=True))
        self.call(self.addresses(caller, workspace, at), scalars, stream)

    def addresses(self, caller: Mapping[str, Any], workspace, at: Mapping[str, Any]) -> list[Int64]:
        """Where the tensors lie, 0 for those that the config has no use for."""
        start = workspace.iterator.toint()
        given = [Int64(0) if caller[name] is None else caller[name].iterator.toint() for name in CALLER]
        return given + [start + at[name] if name in at else Int64(0) for name in (*ALWAYS, *OPTIONAL)]

    def call(self, addresses: Sequence[Int64], scalars: Mapping[str, Any], stream) -> None:
        """Lay out the list of arguments on the stack and call kernel after kernel; the first error ends the call."""
        pointer, word, code = llvm.PointerType.get(), Int64.mlir_type, Int32.mlir_type

        def constant(value: int, of: ir.Type) -> ir.Value:
            return llvm.mlir_constant(ir.IntegerAttr.get(of, value))

        def room(words: int) -> ir.Value:
            return llvm.alloca(pointer, constant(words, word), word, alignment=8)

        def put(at: ir.Value, i: int, value: ir.Value) -> None:
            llvm.store(value, llvm.getelementptr(pointer, at, [], [i], word, 0))

        listed = room(SLOTS)
        for i, value in enumerate((*addresses, *(scalars[name] for name in SCALARS))):
            put(listed, i, value.ir_value())
        # tvm-ffi's own calling convention: an argument is its type and its value, 8 bytes each.
        arguments, result = room(4), room(2)
        put(arguments, 0, constant(INTEGER, word))
        put(arguments, 1, llvm.ptrtoint(word, listed))
        put(arguments, 2, constant(OPAQUE_POINTER, word))
        put(arguments, 3, cuda.cast(pointer, stream))
        put(result, 0, constant(0, word))
        put(result, 1, constant(0, word))
        types = [pointer, pointer, code, pointer]
        for kernel in self.kernels:
            launch = cute.ffi(name=f"__tvm_ffi_{kernel}", params_types=types, return_type=Int32, inline=False)
            failed = launch(llvm.mlir_zero(pointer), arguments, constant(2, code), result)
            cuda.return_if_error([failed])
