"""The adapter to flashinfer-bench: its formats, inputs and rules, so that the rest of the code need not know them.

flashinfer-bench and torch are imported inside functions, since that takes seconds and the command line must be fast.
Nothing here needs CUDA: where flashinfer-bench would call ``torch.cuda`` (its evaluators and its timer), our own
check and timer are used instead, with flashinfer-bench's functions for inputs, errors and normalisation.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from search_spaces.targets import target_named
from workers.errors import DatasetError
from workers.fib.dataset import Document
from workers.fib.importing import importable
from workers.records import Measurement, Status, Variant

LIBRARY = "tuner_variant"
"""Name of every Solution that is compiled. flashinfer-bench finds libraries by name too, and one variant has many keys:
a build, each regime and an export have their own."""

BY_NAME = "by_name.py"
"""In a reference's variant: hands the inputs over by name, where the reference takes them in another order."""

JUDGED_BY = "judged_by"
"""Key of a measurement's conditions, and of a trace's figures: output -> rule."""

_PUBLIC_STATUSES = (
    Status.PASSED,
    Status.INCORRECT_SHAPE,
    Status.INCORRECT_NUMERICAL,
    Status.INCORRECT_DTYPE,
    Status.RUNTIME_ERROR,
    Status.COMPILE_ERROR,
    Status.TIMEOUT,
)
"""Statuses that flashinfer-bench's EvaluationStatus has too."""


def definition_model(document: Document) -> Any:
    """The document as flashinfer-bench's Definition.

    Raises:
        DatasetError: It breaks the schema; the message names the field.
    """
    return _model("Definition", document, f"definition {document.get('name')!r}")


def workload_model(document: Document) -> Any:
    """The document as flashinfer-bench's Workload.

    Raises:
        DatasetError: It breaks the schema; the message names the field.
    """
    return _model("Workload", document, f"workload {document.get('uuid')!r}")


def solution_model(document: Document) -> Any:
    """The document as flashinfer-bench's Solution.

    Raises:
        DatasetError: It breaks the schema; the message names the field.
    """
    return _model("Solution", document, f"Solution {document.get('name')!r}")


def _model(kind: str, document: Document, what: str) -> Any:
    importable()
    from pydantic import ValidationError

    try:
        return getattr(importlib.import_module("flashinfer_bench.data"), kind).model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "document"
        raise DatasetError(f"{what} breaks flashinfer-bench's schema at {field}: {first['msg']}") from None


def solution(variant: Variant, name: str | None = None, description: str | None = None, author: str = "tuner") -> Any:
    """A variant as a flashinfer-bench Solution.

    Args:
        variant: The variant.
        name: Name in the dataset; default: the variant's key.
        description: Description in the Solution.
        author: Author in the Solution.
    """
    document = {
        "name": name or f"tuner_{variant.key}",
        "definition": variant.definition,
        "author": author,
        "spec": {
            "language": variant.language,
            "target_hardware": [target_named(variant.target).device],
            "entry_point": variant.entry_point,
            "dependencies": list(variant.dependencies),
            "destination_passing_style": variant.destination_passing,
            **({"binding": variant.binding} if variant.binding else {}),
        },
        # flashinfer-bench refuses empty files, such as __init__.py often is.
        "sources": [{"path": path, "content": text or "\n"} for path, text in sorted(variant.sources.items())],
    }
    if description is not None:
        document["description"] = description
    return solution_model(document)


def variant_of(document: Document, target: str) -> Variant:
    """The variant that a Solution's document describes; its key is the Solution's name.

    Raises:
        DatasetError: The document breaks flashinfer-bench's schema.
    """
    model = solution_model(document)
    return Variant(
        key=model.name,
        definition=model.definition,
        sources={source.path: source.content for source in model.sources},
        entry_point=model.spec.entry_point,
        language=model.spec.language.value,
        target=target,
        dependencies=tuple(model.spec.dependencies),
        destination_passing=model.spec.destination_passing_style,
        binding=model.spec.binding.value if model.spec.binding else None,
    )


def reference_variant(definition: Document, target: str, key: str = "reference") -> Variant:
    """The definition's reference as a variant, so that it is timed like any other."""
    sources = {"main.py": str(definition["reference"])}
    turned = _takes_inputs_otherwise(_parameters(definition["reference"]), list(definition["inputs"]))
    if turned:
        names = ", ".join(definition["inputs"])
        given = ", ".join(f"{name}={name}" for name in definition["inputs"])
        sources[BY_NAME] = f"from .main import run as reference\n\n\ndef run({names}):\n    return reference({given})\n"
    return Variant(
        key=key,
        definition=str(definition["name"]),
        sources=sources,
        entry_point=f"{BY_NAME if turned else 'main.py'}::run",
        language="python",
        target=target,
        destination_passing=False,
    )


def _parameters(source: str) -> list[str]:
    """Names of the parameters of a reference's ``run``; empty if it is none that has names alone."""
    for node in reversed(ast.parse(source).body):
        if isinstance(node, ast.FunctionDef) and node.name == "run":
            return [a.arg for a in node.args.args] if not (node.args.posonlyargs or node.args.vararg) else []
    return []


def _takes_inputs_otherwise(parameters: Sequence[str], inputs: Sequence[str]) -> bool:
    """Whether a reference's parameters are the inputs in another order. Some of flashinfer-trace list an optional input
    last which the reference takes second; the names say what is meant."""
    return list(parameters) != list(inputs) and sorted(parameters) == sorted(inputs)


def build(variant: Variant, definition: Document) -> Any:
    """Compile (or load, if ``FIB_CACHE_PATH`` holds the library) with the builder that flashinfer-bench picks.

    Returns:
        The entry point as a callable.

    Raises:
        flashinfer_bench.compile.BuildError: The builder failed.
    """
    importable()
    from flashinfer_bench.compile import BuilderRegistry
    from flashinfer_bench.compile.builders import TorchBuilder

    # A registry of our own: the singleton would keep every variant's library loaded.
    builders = list(BuilderRegistry.get_instance()._builders)
    if variant.binding == "torch" and not any(type(b) is TorchBuilder for b in builders):
        builders.append(TorchBuilder())  # it takes itself for unavailable where there is no GPU
    registry = BuilderRegistry(builders)
    return registry.build(definition_model(definition), solution(variant, LIBRARY))


class Inputs(tuple[Any, ...]):
    """Inputs in the order of the definition, with the workload's axes, which an absent input cannot show."""

    axes: Mapping[str, int] = {}


def make_inputs(definition: Any, workload: Any, root: str, device: str, absent: Collection[str] = ()) -> Inputs:
    """Inputs of a workload in the order of the definition, equal on every call on the same kind of device.

    flashinfer-bench draws random inputs from torch's global generator, which is seeded from the workload's uuid here
    and restored afterwards.

    Args:
        absent: Names of optional inputs that are not given; they are None.

    Raises:
        DatasetError: A blob is missing, or does not hold the tensor of the definition.
    """
    importable()
    import torch
    from flashinfer_bench.bench.utils import gen_inputs, load_safetensors

    seed = int.from_bytes(hashlib.sha256(workload.uuid.encode()).digest()[:7], "little")
    blobs: dict[str, Any] = {}
    if any(spec.type == "safetensors" for spec in workload.inputs.values()):
        try:
            blobs = load_safetensors(definition, workload, Path(root))
        except (OSError, ValueError, RuntimeError) as error:
            raise DatasetError(f"workload {workload.uuid}: a blob cannot be loaded: {error}") from error
    cuda = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        made = gen_inputs(definition, workload, device, blobs)
    inputs = Inputs(None if name in absent else v for name, v in zip(definition.inputs, made, strict=True))
    inputs.axes = dict(workload.axes)
    return inputs


def absent_inputs(definition: Document, workload: Document) -> list[str]:
    """Optional inputs of a definition that a workload does not give. flashinfer-bench's own objects lose which inputs
    are optional, and make random ones."""
    given = workload["inputs"]
    return [name for name, spec in definition["inputs"].items() if spec.get("optional") and name not in given]


def call_reference(definition: Any, inputs: Sequence[Any], device: str) -> list[Any]:
    """Outputs of the definition's reference, which may overwrite its arguments.

    Raises:
        DatasetError: The reference does not run on these inputs.
    """
    importable()
    import torch

    space: dict[str, Any] = {"__name__": f"reference_of_{definition.name}"}
    try:
        exec(compile(definition.reference, f"<reference of {definition.name}>", "exec"), space)
        with torch.no_grad():
            if _takes_inputs_otherwise(_parameters(definition.reference), list(definition.inputs)):
                result = space["run"](**dict(zip(definition.inputs, inputs, strict=True)))
            else:
                result = space["run"](*inputs)
        if isinstance(result, dict):
            result = [result[name] for name in definition.outputs]
        return normalize(definition, result, device)
    except Exception as error:
        raise DatasetError(f"the reference of {definition.name!r} fails: {type(error).__name__}: {error}") from error


def allocate_outputs(definition: Any, inputs: Sequence[Any], device: str) -> list[Any]:
    """Empty output tensors in the order of the definition."""
    import torch

    axes = dict(getattr(inputs, "axes", {}))
    for spec, value in zip(definition.inputs.values(), inputs, strict=True):
        if isinstance(value, torch.Tensor) and spec.shape is not None:
            axes.update(zip(spec.shape, value.shape, strict=True))
    shapes = definition.get_output_shapes(axes)
    return [
        torch.empty(shape or (), dtype=dtype, device=device)
        for shape, dtype in zip(shapes, definition.torch_output_dtypes, strict=True)
    ]


def normalize(definition: Any, result: Any, device: str) -> list[Any]:
    """The values that a candidate returned, as a list of tensors in the order of the definition.

    Raises:
        ValueError: There are more or fewer values than outputs.
        TypeError: One is neither a tensor nor a number.
    """
    importable()
    import numpy
    import torch
    from flashinfer_bench.bench.evaluators.utils import normalize_result

    values = returned(result)
    plain = (int, float, bool, numpy.ndarray, numpy.float64, numpy.float32, numpy.int64, numpy.int32, numpy.bool_)
    for name, value in zip(definition.outputs, values, strict=False):
        if not isinstance(value, torch.Tensor) and type(value) not in plain:
            # When flashinfer-bench makes a tensor of it, it may begin to compute: after the call was timed.
            raise TypeError(f"output {name} is a {type(value).__name__}, neither a tensor nor a number")
    return list(normalize_result(definition, values, device))


def returned(result: Any) -> list[Any]:
    """What a call returned, as a list. Of a kind of tuple or list, what it holds, whatever it says when it is asked."""
    if isinstance(result, tuple):
        return list(tuple.__getitem__(result, slice(None)))
    return list.__getitem__(result, slice(None)) if isinstance(result, list) else [result]


def trace(
    definition: str,
    workload: Document,
    solution_name: str,
    measurement: Measurement,
    hardware: str,
    libs: dict[str, str],
    reference_us: float | None = None,
) -> Any:
    """flashinfer-bench's Trace of a measurement. A status that it does not know becomes RUNTIME_ERROR, with a log."""
    importable()
    from flashinfer_bench.data import Correctness, Environment, Evaluation, EvaluationStatus, Performance, Trace

    known = measurement.status in _PUBLIC_STATUSES
    status = measurement.status if known else Status.RUNTIME_ERROR
    correctness = performance = None
    if status in (Status.PASSED, Status.INCORRECT_NUMERICAL):
        extra = {key: value for key, value in measurement.conditions.items() if key == JUDGED_BY}
        if measurement.matched_ratio is not None:
            extra["matched_ratio"] = measurement.matched_ratio
        correctness = Correctness(
            max_relative_error=measurement.max_rel_error or 0.0,
            max_absolute_error=measurement.max_abs_error or 0.0,
            extra=extra or None,
        )
    if status is Status.PASSED and measurement.median_us is not None:
        performance = Performance(
            latency_ms=measurement.median_us / 1e3,
            reference_latency_ms=(reference_us or 0.0) / 1e3,
            speedup_factor=(reference_us or 0.0) / measurement.median_us,
        )
    return Trace(
        definition=definition,
        workload=workload_model(workload),
        solution=solution_name,
        evaluation=Evaluation(
            status=EvaluationStatus(status.value),
            environment=Environment(hardware=hardware, libs=libs),
            timestamp=datetime.now().isoformat(),
            log=measurement.message if known else f"{measurement.status.value}: {measurement.message}",
            correctness=correctness,
            performance=performance,
        ),
    )


def note_rules(trace: Document, judged_by: Mapping[str, str]) -> None:
    """Write into a trace of flashinfer-bench's by which rules our workers judged the outputs before it did."""
    correctness = trace["evaluation"].get("correctness")
    if correctness is not None and judged_by:
        correctness["extra"] = {**(correctness.get("extra") or {}), JUDGED_BY: dict(judged_by)}


def trace_model(document: Document) -> Any:
    """A document that flashinfer-bench wrote, as its Trace.

    Raises:
        DatasetError: It breaks the schema; the message names the field.
    """
    return _model("Trace", document, f"trace of {document.get('solution')!r}")


def write_solution(root: Path, model: Any, op_type: str) -> Path:
    """Store a Solution in a flashinfer-trace folder; the path is ``solutions/<op>/<definition>/<name>.json``."""
    importable()
    from flashinfer_bench.data import save_json_file

    path = root / "solutions" / op_type / model.definition / f"{model.name}.json"
    save_json_file(model, path)
    return path


def append_traces(root: Path, traces: Sequence[Any], op_type: str) -> Path:
    """Append traces of one definition to ``traces/<op>/<definition>.jsonl`` of a flashinfer-trace folder."""
    importable()
    from flashinfer_bench.data import append_jsonl_file

    path = root / "traces" / op_type / f"{traces[0].definition}.jsonl"
    append_jsonl_file(list(traces), path)
    return path
