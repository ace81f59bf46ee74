"""Finds and reads the files of a flashinfer-trace folder, and says what is wrong with a file or a tensor."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workers.errors import DatasetError

Document = dict[str, Any]
"""A parsed JSON object with flashinfer-bench's schema."""

_LFS_MARK = b"version https://git-lfs.github.com/spec/"
_MOST_HEADER_BYTES = 100 << 20
"""Longest header of a safetensors file, the library's own limit."""


_DTYPES = {
    "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "bool": "BOOL",
}  # fmt: skip
"""Data types as definitions and as safetensors files spell them."""


def documents_below(folder: Path, suffix: str) -> list[Path]:
    """Files with this ending, sorted, without hidden ones, which editors and systems leave, and without pipes and the
    like, on which reading would wait."""
    found = sorted(p for p in folder.rglob(f"*{suffix}") if not (p.is_fifo() or p.is_socket() or p.is_char_device()))
    return [p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts)]


def read_text(path: Path, root: Path) -> str:
    """The text of a JSON file, with any byte order mark.

    Raises:
        DatasetError: It cannot be read, is not text, or is a git-lfs pointer to the file.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from None
    if content.startswith(_LFS_MARK):
        raise DatasetError(f"{path} is {_pointer(root)}")
    encoding = json.detect_encoding(content)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not {encoding.upper()} text: {error.reason} at byte {error.start}") from None


def read_lines(path: Path, root: Path) -> tuple[list[tuple[int, Document]], list[tuple[str, str]]]:
    """The documents of a JSON-lines file with their line numbers, and the lines without a document with what is wrong.
    A file that cannot be read counts as one such line."""
    lines, faults = [], []
    try:
        # Not splitlines(): it also splits at characters that JSON texts may contain.
        texts = read_text(path, root).split("\n")
    except DatasetError as error:
        return [], [("", str(error))]
    for number, line in enumerate(texts, start=1):
        text = line.removeprefix("\ufeff")  # files that were joined may each begin with a mark
        if not text.strip():
            continue
        try:
            lines.append((number, parse(text, path, number)))
        except DatasetError as error:
            faults.append((text, str(error)))
    return lines, faults


def parse(text: str, path: Path, line: int | None = None) -> Document:
    """The JSON object of a file, or of one of its lines.

    Raises:
        DatasetError: It is not a JSON object.
    """
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        at = line if line is not None else error.lineno
        raise DatasetError(f"{path}:{at}: not valid JSON: {error.msg} (column {error.colno})") from None
    except (ValueError, RecursionError) as error:  # numbers with thousands of digits, thousands of nested brackets
        raise DatasetError(f"{path}:{line or 1}: not usable JSON: {type(error).__name__}: {error}") from None
    if not isinstance(document, dict):
        raise DatasetError(f"{path}:{line or 1}: expected a JSON object, found {type(document).__name__}")
    return document


def blob_fault(root: Path, spec: Mapping[str, Any], shape: Sequence[int] | None, dtype: str) -> str | None:
    """The file of a safetensors input and why the tensor cannot be read from it, None if it can.

    Only the file's header is read.

    Args:
        root: The dataset's folder.
        spec: The input as the workload gives it.
        shape: That the tensor must have; None if it is not known.
        dtype: That it must have, as definitions spell it.

    Source: the safetensors format: eight bytes with the header's length, the header as JSON, the tensors' bytes.
    """
    path = root / spec["path"]
    try:
        if not path.is_file():
            return f"{path}, which is missing"
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(len(_LFS_MARK))
            if start == _LFS_MARK:
                return f"{path}, which is {_pointer(root)}"
            length = int.from_bytes(start[:8], "little")
            if len(start) < 8 or length > min(size - 8, _MOST_HEADER_BYTES):
                return f"{path}, which is cut off or not a safetensors file ({size} bytes)"
            file.seek(8)
            header = json.loads(file.read(length))
            ends = {name: int(tensor["data_offsets"][1]) for name, tensor in header.items() if name != "__metadata__"}
    except OSError as error:
        return f"{path}, which cannot be read: {error.strerror}"
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return f"{path}, which is not a safetensors file"
    key = spec.get("tensor_key")
    if key not in ends:
        return f"tensor {key!r} of {path}, which has {', '.join(list(ends)[:5]) or 'none'}"
    whole = 8 + length + max(ends.values())
    if size < whole:
        return f"{path}, which is cut off: {size} of {whole} bytes"
    there, kind = header[key].get("shape"), header[key].get("dtype")
    if shape is not None and there != list(shape):
        return f"a tensor of shape {list(shape)}, and {key!r} of {path} has {there}"
    if dtype in _DTYPES and kind != _DTYPES[dtype]:
        return f"a tensor of {dtype} ({_DTYPES[dtype]}), and {key!r} of {path} has {kind}"
    return None


def _pointer(root: Path) -> str:
    return f"a git-lfs pointer and not the file itself; fetch it with: git -C {root} lfs pull"
