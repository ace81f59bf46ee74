"""Calls the host functions of a built Solution against a mock CUDA runtime and prints what they launched.

    python probe.py MOCK_LIBRARY PACKAGE_FOLDER

A process of its own: the mock's symbols stay in the process for good. Each line of its input is a request,
``{"tokens": T, ...}``, each line of its output the answer; see :meth:`Solution.answer`. Pointers are made up: device
memory starts at ``HEAP``, with a range of its own for each tensor, so that a pointer in a kernel's arguments tells its
tensor.
"""

from __future__ import annotations

import ctypes
import importlib
import itertools
import json
import math
import struct
import sys
from collections.abc import Iterator
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_int, c_int64, c_size_t, c_uint, c_uint64, c_void_p
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HEAP = 0x2B0000000000
RANGE = 1 << 40
"""Bytes between two tensors: more than any of them has. No address of the process itself begins like HEAP."""
STREAM = 0x5EED5000
CUDA, CPU = 2, 1
DTYPES = {"float32": (2, 32), "bfloat16": (4, 16), "fp8": (10, 8), "uint8": (1, 8), "float16": (2, 16)}
"""dtype -> DLPack's type code and number of bits."""
CLUSTER, PROGRAMMATIC, COOPERATIVE, PREFERRED_CLUSTER = 4, 6, 2, 11
KNOWN = {CLUSTER, PROGRAMMATIC, COOPERATIVE, PREFERRED_CLUSTER}
"""Launch attributes of CUDA (cudaLaunchAttributeID)."""
MAX_DYNAMIC_SMEM = 8
"""Attribute of a kernel (cudaFuncAttributeMaxDynamicSharedMemorySize)."""


class Dim3(Structure):
    _fields_ = [("x", c_uint), ("y", c_uint), ("z", c_uint)]

    def __iter__(self) -> Iterator[int]:
        return iter((self.x, self.y, self.z))


class Attribute(Structure):
    _fields_ = [("id", c_int), ("pad", c_int), ("value", c_int * 16)]


class LaunchConfig(Structure):
    _fields_ = [
        ("grid", Dim3),
        ("block", Dim3),
        ("smem", c_size_t),
        ("stream", c_void_p),
        ("attributes", POINTER(Attribute)),
        ("count", c_uint),
    ]


class DlpackDevice(Structure):
    _fields_ = [("kind", c_int), ("index", c_int)]


class DType(Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class DLTensor(Structure):
    _fields_ = [
        ("data", c_void_p),
        ("device", DlpackDevice),
        ("ndim", c_int),
        ("dtype", DType),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("offset", c_uint64),
    ]


class DLManagedTensor(Structure):
    _fields_ = [("tensor", DLTensor), ("context", c_void_p), ("deleter", c_void_p)]


ON_LAUNCH = CFUNCTYPE(None, POINTER(LaunchConfig), c_void_p, POINTER(c_void_p))
ON_SETUP = CFUNCTYPE(None, c_char_p, c_void_p, c_void_p, c_int, c_int)
_alive: list = []
"""Shapes, strides and DLPack records: the callee reads them for as long as the process lives."""


def tensor(pointer: int, dtype: str, shape: Any, strides: Any = None, device: int = CUDA) -> Any:
    """A ``tvm_ffi.Tensor`` over memory that does not exist."""
    import tvm_ffi

    if strides is None:
        strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    code, bits = DTYPES[dtype]
    extents, steps = (c_int64 * len(shape))(*shape), (c_int64 * len(shape))(*strides)
    inner = DLTensor(pointer, DlpackDevice(device, 0), len(shape), DType(code, bits, 1), extents, steps, 0)
    managed = DLManagedTensor(inner, None, None)
    _alive.append((extents, steps, managed))
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, (c_void_p, c_char_p, c_void_p)
    return tvm_ffi.from_dlpack(new(ctypes.addressof(managed), b"dltensor", None))


def parameters(image: int) -> dict[str, list[tuple[int, int]]]:
    """(ordinal, bytes) of every kernel's parameters, out of the code object at an address.

    Source: the section .nv.info.KERNEL has records (format, attribute, size, payload); attribute 0x17 describes a
    parameter: index, ordinal, offset, and its size from bit 18 of the last word on (what cuobjdump -elf prints).
    """
    (size,) = struct.unpack_from("<Q", ctypes.string_at(image + 8, 8))
    blob = ctypes.string_at(image, 16 + size)
    elf = blob[blob.index(b"\x7fELF") :]
    table, count, names = *struct.unpack_from("<Q", elf, 40), *struct.unpack_from("<HH", elf, 60)
    sections = [struct.unpack_from("<IIQQQQ", elf, table + 64 * i) for i in range(count)]
    found: dict[str, list[tuple[int, int]]] = {}
    for name_at, _, _, _, offset, length in sections:
        start = sections[names][4] + name_at
        name = elf[start : elf.index(b"\0", start)].decode()
        if not name.startswith(".nv.info."):
            continue
        at, out = offset, []
        while at < offset + length:
            form, attribute, payload = struct.unpack_from("<BBH", elf, at)
            if attribute == 0x17:
                _, ordinal, _, flags = struct.unpack_from("<IHHI", elf, at + 4)
                out.append((ordinal, flags >> 18))
            at += 4 + (payload if form == 4 else 0)
        found[name.removeprefix(".nv.info.")] = sorted(out)
    return found


@dataclass
class LoadedKernel:
    """A kernel of a loaded image, and what was set for it."""

    name: str
    parameters: list[tuple[int, int]]
    attributes: dict[int, int] = field(default_factory=dict)


class Recorder:
    """Records the calls that the mock runtime receives."""

    def __init__(self, mock: ctypes.CDLL):
        self.launches: list[dict] = []
        self.wants_raw = False
        self.kernels: dict[int, LoadedKernel] = {}
        self.tensors: list[str] = []
        self.sections: dict[int, str] = {}
        self.callbacks = ON_LAUNCH(self.on_launch), ON_SETUP(self.on_setup)
        mock.mock_listen(*self.callbacks)

    def on_setup(self, what: bytes, kernel: int, image: int, key: int, value: int) -> None:
        if what == b"kernel":
            name = ctypes.string_at(kernel).decode()
            self.kernels[kernel] = LoadedKernel(name, parameters(image)[name])
        elif what == b"attribute":
            self.kernels[kernel].attributes[key] = value

    def on_launch(self, config: Any, kernel: int, arguments: Any) -> None:
        c, known = config.contents, self.kernels[kernel]
        attributes = {a.id: list(a.value) for a in (c.attributes[i] for i in range(c.count))}
        self.launches.append(
            {
                "kernel": known.name,
                "grid": list(c.grid),
                "block": list(c.block),
                "cluster": attributes.get(PREFERRED_CLUSTER, attributes.get(CLUSTER, [1, 1, 1]))[:3],
                "fallback": attributes.get(CLUSTER, [1, 1, 1])[:3] if PREFERRED_CLUSTER in attributes else None,
                "smem": c.smem,
                "stream": c.stream or 0,
                "pdl": bool(attributes.get(PROGRAMMATIC, [0])[0]),
                "cooperative": bool(attributes.get(COOPERATIVE, [0])[0]),
                "unknown": sorted(set(attributes) - KNOWN),
                "smem_allowed": known.attributes[MAX_DYNAMIC_SMEM],
                "pointers": self.pointers(known, arguments),
                **({"arguments": self.raw(known, arguments)} if self.wants_raw else {}),
            }
        )

    @staticmethod
    def raw(kernel: LoadedKernel, arguments: Any) -> list[str]:
        """The bytes of every argument of the kernel."""
        return [ctypes.string_at(arguments[ordinal], size).hex() for ordinal, size in kernel.parameters]

    def pointers(self, kernel: LoadedKernel, arguments: Any) -> list[str]:
        """Tensors and workspace sections that the kernel's arguments point at.

        A tensor and a TMA descriptor both begin with the address; what comes behind may have gaps with old bytes.
        """
        seen = set()
        for ordinal, size in kernel.parameters:
            if size >= 8:
                (word,) = struct.unpack("<Q", ctypes.string_at(arguments[ordinal], 8))
                which, offset = divmod(word - HEAP, RANGE)
                if 0 <= which < len(self.tensors):
                    seen.add(self.named(self.tensors[which], offset))
        return sorted(seen)

    def named(self, name: str, offset: int) -> str:
        """A place inside a tensor, by its section if it is the workspace."""
        if name == "workspace" and offset in self.sections:
            return self.sections[offset]
        return f"{name} + {offset}" if offset else name


def inputs(sizes: dict, tokens: int, workspace: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> (dtype, shape) of the host function's tensors."""
    hidden, inter, local = sizes["hidden"], sizes["intermediate"], sizes["local_experts"]
    deepseek = sizes["routing"] == "deepseek"
    return {
        "logits": ("float32" if deepseek else "bfloat16", (tokens, sizes["experts"])),
        **({"bias": ("bfloat16", (sizes["experts"],))} if deepseek else {}),
        "x": ("fp8", (tokens, hidden)),
        "xs": ("float32", (hidden // 128, tokens)),
        "w13": ("fp8", (local, 2 * inter, hidden)),
        "s13": ("float32", (local, 2 * inter // 128, hidden // 128)),
        "w2": ("fp8", (local, hidden, inter)),
        "s2": ("float32", (local, hidden // 128, inter // 128)),
        "out": ("bfloat16", (tokens, hidden)),
        "workspace": ("uint8", (workspace,)),
    }


class Solution:
    """A staged package whose ``run`` allocates its workspace from the made-up memory."""

    def __init__(self, folder: Path, recorder: Recorder):
        sys.path.insert(0, str(folder.parent))
        self.package = folder.name
        self.main: Any = importlib.import_module(f"{folder.name}.main")
        self.recorder = recorder
        self.sizes = self.main.SIZES
        self.asked: list[int] = []
        setattr(self.main, "_workspace", self.workspace)  # noqa: B010 - a checker knows the module too well

    def workspace(self, device: Any, size: int) -> Any:
        self.asked.append(size)
        recorder = self.recorder
        return tensor(HEAP + RANGE * recorder.tensors.index("workspace"), "uint8", (size,))

    def choose(self, row: int | None) -> None:
        """Take the config of a row of the table at any size; None: the one that the Solution dispatches to."""
        config, build = (
            importlib.import_module(f"{self.package}.config"),
            importlib.import_module(f"{self.package}.build"),
        )
        self.main.select = config.select if row is None else lambda size: config.TABLE[row][1]
        self.main._key = lambda tokens: build.function_name(self.main.select(tokens))

    def answer(self, request: dict) -> dict:
        """Launches of one ``run``; or, with ``wrong``, the message with which the argument was refused.

        ``wrong``: {"name": tensor, "dtype": ..., "shape": ..., "strides": ..., "device": ..., "offset": bytes}, each
        but the name optional: what is given replaces what is right. ``raw``: also the bytes of the arguments, and where
        everything lies (``memory``: name -> [address, bytes]).
        """
        import tvm_ffi

        self.choose(request.get("row"))
        self.recorder.wants_raw = request.get("raw", False)
        tokens, wrong = request["tokens"], request.get("wrong", {})
        made = {}
        self.recorder.tensors = list(inputs(self.sizes, tokens, 0))
        for i, (name, (dtype, shape)) in enumerate(inputs(self.sizes, tokens, 0).items()):
            change = wrong if wrong.get("name") == name else {}
            made[name] = tensor(
                HEAP + RANGE * i + change.get("offset", 0),
                change.get("dtype", dtype),
                change.get("shape", shape),
                change.get("strides"),
                change.get("device", CUDA),
            )
        made.pop("workspace")
        out = made.pop("out")
        config = self.main.select(tokens)
        rows = self.main.row_capacity(config, self.sizes, tokens)
        offsets = self.main.sections(config, self.sizes, tokens, rows)
        self.recorder.sections = {at: name for name, at in offsets.items()}
        self.recorder.launches = []
        self.asked.clear()
        scalars = [request.get("offset", 0), request.get("scaling", 2.5)] if self.sizes["routing"] == "deepseek" else []
        try:
            with tvm_ffi.use_raw_stream(tvm_ffi.device("cuda", 0), STREAM):
                self.main.run(*made.values(), *scalars, out)
        except (TypeError, ValueError, RuntimeError) as error:
            return {"error": f"{type(error).__name__}: {error}", "launches": self.recorder.launches}
        return {
            "launches": self.recorder.launches,
            "workspace": list(self.asked),
            "total": offsets["total"],
            "stream": STREAM,
            "function": self.main._key(tokens),
            **({"memory": self.memory(offsets, tokens)} if request.get("raw") else {}),
        }

    def memory(self, offsets: dict[str, int], tokens: int) -> dict[str, tuple[int, int]]:
        """Address and bytes of every tensor, and of every section instead of the workspace."""
        found = {}
        for i, (name, (dtype, shape)) in enumerate(inputs(self.sizes, tokens, offsets["total"]).items()):
            at = HEAP + RANGE * i
            if name == "workspace":
                places = [*offsets.items()]
                for (section, start), (_, end) in itertools.pairwise(places):
                    found[section] = at + start, end - start
            else:
                found[name] = at, math.prod(shape) * DTYPES[dtype][1] // 8
        return found


def main() -> None:
    mock = ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)
    solution = Solution(Path(sys.argv[2]), Recorder(mock))
    for line in sys.stdin:
        request = json.loads(line)
        mock.mock_fail_launch(request.get("fail", 0))
        answer = solution.answer(request)
        print(json.dumps({**answer, "compiler": "cutlass" in sys.modules}), flush=True)


if __name__ == "__main__":
    main()
