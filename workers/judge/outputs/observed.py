"""Observes the reference on one workload: its outputs, what it leaves unwritten, what it selects and draws from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from workers.fib import adapter as fib
from workers.judge.outputs import memory
from workers.judge.outputs.choices import Choice, choice_of, with_names

SEEDS = (20_26, 20_27)
"""Seeds of the reference's runs. The second run has another seed, to find outputs that are random."""

DRAWS, DRAW_BUDGET_S = 512, 20.0
"""Most runs of a reference that draws from weights which cannot be observed, and the seconds after which they end."""

_EMPTY = {
    torch.empty, torch.empty_like, torch.empty_strided, torch.empty_permuted,
    torch.Tensor.new_empty, torch.Tensor.new_empty_strided, torch.Tensor.new, torch.Tensor.resize_,
}  # fmt: skip
"""Functions that return uninitialised memory."""

_TOP_K = {torch.topk: 1, torch.Tensor.topk: 1}
_BEST = {
    torch.argmax: 1, torch.Tensor.argmax: 1, torch.argmin: -1, torch.Tensor.argmin: -1,
    torch.max: 1, torch.Tensor.max: 1, torch.min: -1, torch.Tensor.min: -1,
}  # fmt: skip
_SORT = {torch.argsort: -1, torch.Tensor.argsort: -1, torch.sort: -1, torch.Tensor.sort: -1}
_DRAW = {torch.multinomial, torch.Tensor.multinomial}


@dataclass
class Observed:
    """What was observed of the reference; lists have one entry per output.

    Args:
        expected: The outputs.
        counted: Elements that it wrote, as booleans; None for all.
        random: Whether the output depends on the seed.
        choice: The call that its whole numbers come from, if it was observed.
        wrote: Names of the inputs that it wrote to (it gets copies).
        draws: [draws, samples] for random whole numbers whose weights were not observed, else None.
        returned: Dtype and shape that the reference returned where the definition says another, else None.
    """

    expected: list[Any]
    counted: list[Any] = field(default_factory=list)
    random: list[bool] = field(default_factory=list)
    choice: list[Choice | None] = field(default_factory=list)
    wrote: list[str] = field(default_factory=list)
    draws: list[Any] = field(default_factory=list)
    returned: list[tuple[Any, tuple[int, ...]] | None] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """Plain values and tensors, for a file."""
        return {**vars(self), "choice": [None if c is None else vars(c) for c in self.choice]}

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Observed:
        """The inverse of :meth:`document`."""
        choices = [None if c is None else Choice(**c) for c in document["choice"]]
        return cls(**{**document, "choice": choices})


def observe(definition: Any, inputs: Sequence[Any], device: str) -> Observed:
    """Run the reference on copies of the inputs: once, once more with other contents in the memory that it allocates
    (if it allocates any without filling it), and once more with another seed (if it draws random numbers).

    Raises:
        DatasetError: The reference does not run on these inputs.
    """
    wants_choices = any(str(spec.dtype.value).startswith("int") for spec in definition.outputs.values())
    first = _Watch(0, wants_choices, inputs)
    copies = memory.copies_of(inputs)
    declared = fib.allocate_outputs(definition, inputs, "meta")
    digests = [memory.digest(value) for value in copies]
    with _seeded(SEEDS[0], device) as used_random_numbers:
        raw = _run(definition, copies, device, first)
        is_random = used_random_numbers()
    expected = _as_declared(raw, declared)
    names = list(definition.inputs)
    wrote = [name for name, value, known in zip(names, copies, digests, strict=True) if _changed(value, known)]
    del copies
    none = [None] * len(expected)
    seen = Observed(expected, [*none], [False] * len(expected), [*none], wrote, [*none])
    seen.returned = [
        None if value is given else (given.dtype, tuple(given.shape))
        for value, given in zip(expected, raw, strict=True)
    ]
    if first.saw_empty:
        with _seeded(SEEDS[0], device):
            again = _as_declared(_run(definition, memory.copies_of(inputs), device, _Watch(1, False, ())), declared)
        seen.counted = [_written(a, b) for a, b in zip(expected, again, strict=True)]
    if is_random:
        with _seeded(SEEDS[1], device):
            other = _as_declared(_run(definition, memory.copies_of(inputs), device, _Watch(0, False, ())), declared)
        same = [_written(a, b) for a, b in zip(expected, other, strict=True)]
        seen.random = [
            mask is not None and bool((~mask if counted is None else ~mask & counted).any())
            for mask, counted in zip(same, seen.counted, strict=True)
        ]
    if wants_choices:
        seen.choice = [choice_of(output, first.choices) for output in expected]
        if not is_random:
            _name_choices(seen, first.choices, definition, inputs, device)
        _draw_again(seen, definition, inputs, device)
    return seen


def _draw_again(seen: Observed, definition: Any, inputs: Sequence[Any], device: str) -> None:
    """Run the reference many times, for random whole numbers whose weights were not observed."""
    for index, (output, random) in enumerate(zip(seen.expected, seen.random, strict=True)):
        choice = seen.choice[index]
        if random and not output.is_floating_point() and (choice is None or not choice.drawn):
            # An arg-max over random numbers is a draw, not a choice.
            seen.choice[index], seen.draws[index] = None, []
    if all(draws is None for draws in seen.draws):
        return
    until = time.monotonic() + DRAW_BUDGET_S
    with _seeded(SEEDS[1], device):
        for done in range(DRAWS):
            if done >= 2 and time.monotonic() > until:
                break
            outputs = fib.call_reference(definition, memory.copies_of(inputs), device)
            for output, draws in zip(outputs, seen.draws, strict=True):
                if draws is not None:
                    draws.append(output.reshape(-1).clone())
    seen.draws = [None if draws is None else torch.stack(draws) for draws in seen.draws]


def _name_choices(
    seen: Observed, choices: Sequence[Choice], definition: Any, inputs: Sequence[Any], device: str
) -> None:
    """For outputs whose rows hold what the reference made of one top-k call each: what it makes of every index. It is
    run again with other answers to these calls, until each index was an answer."""
    calls = [c for c in choices if c.top_k and c.axis == c.indices.dim() - 1]
    rows = [c for c in calls if c.scores.shape[0] == 1]
    wanted = [
        i
        for i, (y, c) in enumerate(zip(seen.expected, seen.choice, strict=True))
        if c is None and not y.is_floating_point() and y.dim() == 2 and len(rows) == len(y)
        and all(0 < r.indices.numel() <= y.shape[1] for r in rows)
    ]  # fmt: skip
    if not wanted or len(rows) != len(choices):
        return
    runs = max(-(-r.scores.shape[1] // r.indices.numel()) for r in rows)
    until = time.monotonic() + DRAW_BUDGET_S
    named: dict[int, list[Any]] = {i: [] for i in wanted}
    for number in range(runs):
        if time.monotonic() > until:
            return
        watch = _Watch(0, False, (), other_answer=number)
        with _seeded(SEEDS[0], device):
            outputs = _run(definition, memory.copies_of(inputs), device, watch)
        for i in wanted:
            named[i].append(outputs[i])
    for i in wanted:
        seen.choice[i] = with_names(rows, named[i], seen.expected[i])


class _Watch(TorchFunctionMode):
    """Fills uninitialised memory with a known pattern, and records the scores by which indices are chosen.

    Args:
        attempt: Number of the pattern.
        wants_choices: Whether to record choices.
        inputs: The inputs of the reference.
        other_answer: Number of a part of the scores. Top-k calls then return the indices of that part, not the best.
    """

    def __init__(
        self, attempt: int, wants_choices: bool, inputs: Sequence[Any], other_answer: int | None = None
    ) -> None:
        super().__init__()
        self._other_answer = other_answer
        self._attempt = attempt
        self._wants_choices = wants_choices
        self._inputs = [value for value in inputs if isinstance(value, torch.Tensor)]
        self.saw_empty = False
        self.choices: list[Choice] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in _EMPTY and isinstance(result, torch.Tensor) and result.numel():
            self.saw_empty = True
            memory.poison([result], self._attempt, finite=self._attempt % 2 == 1)
        elif self._other_answer is not None and func in _TOP_K:
            return self._another(args, kwargs, result)
        elif self._wants_choices and (func in _TOP_K or func in _BEST or func in _SORT or func in _DRAW):
            choice = self._choice(func, args, kwargs, result)
            if choice is not None:
                self.choices.append(choice)
        return result

    def _another(self, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Any:
        """As if other indices were the best of each row: those of one part, one after the other."""
        given = args[0] if args else kwargs["input"]
        count, length = result.indices.shape[-1], given.shape[-1]
        part = torch.arange(count, device=given.device) + (self._other_answer or 0) * count
        indices = (part % length).expand(result.indices.shape).contiguous()
        return torch.return_types.topk((given.gather(-1, indices), indices))

    def _choice(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> Choice | None:
        """The call as a choice; None if it chose nothing (the largest element of all, for example)."""
        given = args[0] if args else kwargs.get("input")
        indices = result if isinstance(result, torch.Tensor) else getattr(result, "indices", None)
        if not isinstance(given, torch.Tensor) or indices is None or indices.is_floating_point():
            return None
        if self._inputs:  # a reference may select on the host; candidates are compared where the inputs are
            given, indices = given.to(self._inputs[0].device), indices.to(self._inputs[0].device)
        if func in _BEST and isinstance(result, torch.Tensor) and func.__name__ in ("max", "min"):
            return None
        if func in _DRAW:
            weights = given.detach().to(torch.float32).reshape(-1, given.shape[-1]).clone()
            return Choice(weights, indices.clone(), indices.dim() - 1, drawn=True)
        dim = kwargs.get("dim", args[2 if func in _TOP_K else 1] if len(args) > (2 if func in _TOP_K else 1) else None)
        if isinstance(dim, bool) or (dim is None and func not in _BEST):
            dim = -1
        sign = {**_TOP_K, **_BEST, **_SORT}[func]
        if (func in _TOP_K and kwargs.get("largest", args[3] if len(args) > 3 else True) is False) or (
            func in _SORT and (kwargs.get("descending") or (len(args) > 2 and args[2] is True))
        ):
            sign = -sign
        kind = torch.float64 if given.dtype in (torch.float64, torch.int64, torch.int32) else torch.float32
        values = given.detach().to(kind) * sign
        rows = values.reshape(1, -1) if dim is None or not given.dim() else values.movedim(dim, -1)
        kept = indices.dim() == given.dim() and given.dim() > 0 and dim is not None
        axis = int(dim or 0) % given.dim() if kept else None
        is_given = any(given.shape == x.shape and bool((given == x).all()) for x in self._inputs)
        return Choice(
            rows.reshape(-1, rows.shape[-1]).clone(),
            indices.clone(),
            axis,
            ordered=func in _SORT,
            given=is_given,
            top_k=func in _TOP_K,
        )


def _run(definition: Any, copies: Sequence[Any], device: str, watch: _Watch) -> list[Any]:
    with watch:
        outputs = fib.call_reference(definition, copies, device)
    # An output may be an input that was written to, or share memory with another output.
    return [output.detach().clone() for output in outputs]


def _as_declared(outputs: Sequence[Any], declared: Sequence[Any]) -> list[Any]:
    """The outputs in the dtype and shape of the definition, which a reference does not always keep: argmax gives int64,
    a sum over all a tensor without axes. Only axes of one are added or taken away; other shapes stay as they are."""
    found = []
    for output, like in zip(outputs, declared, strict=True):
        alike = [n for n in output.shape if n != 1] == [n for n in like.shape if n != 1]
        shape = like.shape if alike else output.shape
        same = output.dtype == like.dtype and output.shape == shape
        found.append(output if same else output.reshape(shape).to(like.dtype))
    return found


@contextmanager
def _seeded(seed: int, device: str) -> Iterator[Callable[[], bool]]:
    """Seed torch's generators and restore them afterwards. Yields a function that says whether they were used."""
    on_gpu = device.startswith("cuda")
    with torch.random.fork_rng(devices=[torch.device(device)] if on_gpu else []):
        torch.manual_seed(seed)

        def states() -> list[torch.Tensor]:
            return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if on_gpu else [])]

        before = states()

        def used() -> bool:
            return not all(torch.equal(a, b) for a, b in zip(before, states(), strict=True))

        yield used


def _changed(value: Any, known: Any) -> bool:
    return not memory.same_digests([memory.digest(value)], [known])


def _written(first: Any, second: Any) -> Any:
    """Elements on which both runs agree, up to the effect of the order of additions; None for all."""
    if first.shape != second.shape:
        return None
    if first.is_floating_point():
        x, y = first.to(torch.float32), second.to(torch.float32)
        near = torch.abs(x - y) <= 1e-3 * torch.maximum(torch.abs(x), torch.abs(y)) + 1e-6
        agreed = near | (x == y) | (torch.isnan(x) & torch.isnan(y))
    else:
        agreed = first == second
    return None if bool(agreed.all()) else agreed
