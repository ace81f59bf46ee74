"""Inputs of workloads that no dataset lists: of other sizes, or with inputs after a named profile.

A made workload has the keys of a listed one, and ``profile`` and ``like``. Inputs that its profile fills come from the
problem's generator; files are read as those of the workload it is made after, and where the size differs, rows are
drawn from them; random inputs that no size changes are that workload's; all others are made by flashinfer-bench, as
always.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search_spaces import SpaceError
from search_spaces.inputs.generator import RECORDED
from workers.errors import DatasetError
from workers.fib import adapter as fib
from workers.fib.dataset import LENDS, LIKE, PROFILE, Document, Problem, profile_of
from workers.fib.importing import importable


def inputs_of(problem: Problem, document: Document, device: str, lent: Mapping[str, Any] | None = None) -> fib.Inputs:
    """The inputs of any workload of a problem, in the order of the definition, equal on every call.

    Args:
        problem: The problem.
        document: Of the workload.
        device: Where tensors go.
        lent: Name -> tensor of the inputs that a made workload has in common with the one it is made after, where they
            are on the device already; else they are made.

    Raises:
        DatasetError: A blob is missing or of the wrong shape, or the generator fails.
    """
    names = list(problem.definition["inputs"])
    lends = lent_names(document)
    if not lends:
        return _inputs(problem, document, device, names)
    if lent is None:
        origin = inputs_of(problem, problem.workload(document[LIKE]["uuid"]), device)
        lent = {name: value for name, value in zip(names, origin, strict=True) if name in lends}
    own = [name for name in names if name not in lends]
    made = _inputs(problem, document, device, own)
    values = {**lent, **dict(zip(own, made, strict=True))}
    inputs = fib.Inputs(values[name] for name in names)
    inputs.axes = made.axes
    return inputs


def lent_names(document: Document) -> list[str]:
    """The inputs that a workload has in common with the one it is made after."""
    return list(document[LIKE][LENDS]) if PROFILE in document else []


def filled_inputs(problem: Problem, document: Document, device: str) -> dict[str, Any]:
    """The inputs of a workload that a generator fills, by name, and no others: the same values as among all inputs.

    Raises:
        DatasetError: As for :func:`inputs_of`.
    """
    wanted = () if problem.generator is None else problem.generator.fills
    names = list(problem.definition["inputs"])
    last = max((names.index(name) for name in wanted if name in names), default=-1)
    # Random inputs are drawn one after the other, so those behind the last one that is wanted need not be made.
    lends = lent_names(document)
    first = [name for name in names[: last + 1] if name not in lends]
    made = _inputs(problem, document, device, first) if first else fib.Inputs()
    return {name: value for name, value in zip(first, made, strict=True) if name in wanted}


def _inputs(problem: Problem, document: Document, device: str, names: list[str]) -> fib.Inputs:
    """The inputs of these names, in the order of the definition."""
    listed = {name: problem.definition["inputs"][name] for name in names}
    definition = fib.definition_model({**problem.definition, "inputs": listed})
    specs = {name: spec for name, spec in document["inputs"].items() if name in listed}
    absent = [name for name in fib.absent_inputs(problem.definition, document) if name in listed]
    if PROFILE not in document:
        workload = fib.workload_model({**document, "inputs": specs})
        return fib.make_inputs(definition, workload, problem.root, device, absent)
    random = {"type": "random"}
    plain = {n: random if spec["type"] == "safetensors" else spec for n, spec in specs.items()}
    workload = fib.workload_model({"uuid": document["uuid"], "axes": document["axes"], "inputs": plain})
    made = fib.make_inputs(definition, workload, problem.root, device, absent)
    files = {name: spec for name, spec in specs.items() if spec["type"] == "safetensors"}
    other = {**_filled(problem, document, device), **_rows_of_files(problem, document, files, definition, device)}
    inputs = fib.Inputs(other.get(name, value) for name, value in zip(names, made, strict=True))
    inputs.axes = made.axes
    return inputs


def described(problem: Problem, document: Document, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What the inputs of a workload do, as figures by name; empty if nobody can say.

    Args:
        inputs: Name -> tensor of those that the generator fills.

    Raises:
        DatasetError: The generator fails.
    """
    if problem.generator is None:
        return {}
    arrays = {name: value.float().cpu().numpy() for name, value in inputs.items() if hasattr(value, "float")}
    try:
        return dict(problem.generator.describe(profile_of(document), problem.definition, document, arrays))
    except SpaceError as error:
        raise DatasetError(f"workload {document['uuid']}: {error}") from None


def seed_of(document: Document) -> int:
    """The seed of what a profile fills and of rows that are drawn."""
    return int.from_bytes(hashlib.sha256(str(document["uuid"]).encode()).digest()[:4], "little")


def _filled(problem: Problem, document: Document, device: str) -> dict[str, Any]:
    import torch

    profile = document[PROFILE]
    if profile == RECORDED:
        return {}
    if problem.generator is None:
        raise DatasetError(f"workload {document['uuid']}: nothing here makes inputs of profile {profile!r}")
    try:
        found = problem.generator.fill(profile, problem.definition, document, seed_of(document))
    except SpaceError as error:
        raise DatasetError(f"workload {document['uuid']}: {error}") from None
    model = fib.definition_model(problem.definition)
    sizes = model.get_input_shapes(document["axes"])
    shapes = {name: tuple(shape or ()) for name, shape in zip(model.inputs, sizes, strict=True)}
    dtypes = dict(zip(model.inputs, model.torch_input_dtypes, strict=True))
    tensors = {}
    for name, array in found.items():
        if name not in shapes:
            raise DatasetError(f"{problem.generator.where}: {name!r} is no input of {problem.name}")
        if tuple(array.shape) != shapes[name]:
            shape = f"{list(array.shape)}, needed is {list(shapes[name])}"
            raise DatasetError(f"{problem.generator.where}: {name!r} has shape {shape}")
        tensors[name] = torch.as_tensor(array).to(dtype=dtypes[name], device=device)
    return tensors


def _rows_of_files(
    problem: Problem, document: Document, files: Mapping[str, Any], definition: Any, device: str
) -> dict[str, Any]:
    """Inputs from files, as many along each axis as the workload wants."""
    importable()
    import torch
    from flashinfer_bench.bench.utils import load_safetensors

    if not files:
        return {}
    axes = document[LIKE]["axes"]
    model = fib.workload_model({"uuid": document["uuid"], "axes": axes, "inputs": dict(files)})
    try:
        found = load_safetensors(definition, model, Path(problem.root))
    except (OSError, ValueError, RuntimeError) as error:
        raise DatasetError(f"workload {document['uuid']}: a blob cannot be loaded: {error}") from error
    drawn = {}
    random = torch.Generator().manual_seed(seed_of(document))
    picks: dict[str, Any] = {}
    for axis, size in document["axes"].items():
        if axes[axis] != size:
            # The same rows of every input: what belongs together stays together.
            fewer = size <= axes[axis]
            everything = torch.randperm(axes[axis], generator=random)
            drawn_rows = everything[:size] if fewer else torch.randint(axes[axis], (size,), generator=random)
            picks[axis] = drawn_rows.sort().values
    for name in files:
        value = found[name]
        for dim, axis in enumerate(problem.definition["inputs"][name]["shape"] or ()):
            if axis in picks:
                value = value.index_select(dim, picks[axis].to(value.device))
        drawn[name] = value.to(device)
    return drawn
