"""What candidates can change in the process that they share: read, and put back.

Some of it is a candidate's own: a number of threads that its module sets at import is part of it, and it has to run
under that number whenever it is its turn, also when other candidates were loaded since. All of it is put back when its
last turn is over.
"""

from __future__ import annotations

import contextlib
import random
import sys
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from workers.errors import ProcessChangedError
from workers.sandbox.process_parts import cuda_parts, name_parts, process_parts, torch_parts

Values = Mapping[str, Any]
"""Part -> what it is."""


class ProcessState:
    """The parts of this process. Made when the evaluator's own imports are done.

    Args:
        cuda: Whether candidates run on a GPU.
    """

    def __init__(self, cuda: bool) -> None:
        of_torch = torch_parts() if "torch" in sys.modules else {}
        # Names first: the others are read and written with functions that a candidate may have replaced.
        self._names = name_parts()
        self._parts = self._names | of_torch | (cuda_parts() if cuda else {}) | process_parts()
        self._own = [name for name, part in self._parts.items() if part.own]
        self._ours = [name for name in _OURS if name in self._parts]
        self._base = self._read(self._parts)
        self._path = list(sys.path)
        self._threads = set(threading.enumerate())

    def own(self) -> Values:
        """What the present candidate has made of the parts that a turn has its own of."""
        return self._read(self._own)

    def give_turn(self, values: Values, parts: Iterable[str] | None = None) -> list[str]:
        """Make those parts so (all of ``values`` by default); the names of those that cannot be."""
        return self._write({name: values[name] for name in (values if parts is None else parts)})

    @property
    def base(self) -> Values:
        """What the parts that a turn has its own of are between turns."""
        return {name: self._base[name] for name in self._own}

    def differing(self, several: Iterable[Values]) -> list[str]:
        """The parts in which candidates differ from each other or from the evaluator."""
        return [n for n in self._own if any(values[n] != self._base[n] for values in several)]

    def put_back(self, but: Iterable[str] = ()) -> list[str]:
        """Make everything what it was, but for some parts; the names of what cannot be."""
        left = dict.fromkeys(but)
        return self._write({name: value for name, value in self._base.items() if name not in left})

    @property
    def names(self) -> Collection[str]:
        """The parts that :meth:`put_back_names` gives back."""
        return self._names.keys()

    def put_back_names(self) -> str | None:
        """Give everybody's names back what they were. Returns one that a candidate had taken or made None, if there
        is any; libraries replace functions by others that work. Uses no built-in name."""
        taken = None
        for part in self._names.values():
            found = part.read()
            for place, names in found:
                owner = place.get("__name__") or place.get("__module__")
                for name in names:
                    now = place.get(name, names)
                    if now is names[name]:
                        continue  # None in sys.modules stands for a module that cannot be imported
                    if taken is None and (now is None or (now is names and owner)):
                        taken = f"{owner}.{name}" if owner else name
            if found:
                part.write(None)
        return taken

    def put_back_imports(self, keep: Sequence[str]) -> None:
        """Forget folders that a candidate put on the import path, but for some."""
        sys.path[:] = [*(folder for folder in keep if folder in sys.path), *self._path]

    def threads_left(self) -> list[str]:
        """Names of threads that a candidate started with Python and that still run."""
        return [thread.name for thread in threading.enumerate() if thread not in self._threads]

    def reseed(self) -> None:
        """Every candidate begins with the same random numbers."""
        random.seed(0)
        torch = sys.modules.get("torch")
        if torch is not None:
            # Not torch.manual_seed: it notes a traceback for each kind of device that this machine lacks, 1 ms.
            torch.default_generator.manual_seed(0)
            if torch.cuda.is_initialized():
                torch.cuda.manual_seed_all(0)
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(0)

    @contextlib.contextmanager
    def evaluators(self) -> Iterator[None]:
        """For work of the evaluator in the midst of a candidate's turn: default dtype, device and modes are its own."""
        theirs = self._read(self._ours)
        changed = [name for name in self._ours if theirs[name] != self._base[name]]
        self._write({name: self._base[name] for name in changed})
        try:
            yield
        finally:
            self._write({name: theirs[name] for name in changed if name not in _ONE_WAY})

    def _read(self, names: Collection[str]) -> dict[str, Any]:
        try:
            return {name: self._parts[name].read() for name in names}
        except Exception:  # a candidate took a name with which they are read
            self.put_back_names()
            return {name: self._parts[name].read() for name in names}

    def _write(self, values: Values) -> list[str]:
        stuck = []
        for name, value in values.items():
            part = self._parts[name]
            try:
                if part.read() != value:
                    part.write(value)
                    if part.read() != value:
                        stuck.append(name)
            except Exception:
                stuck.append(name)
        return stuck


class Turns:
    """Several candidates that take turns in one process.

    Args:
        state: Of the process.
        settings: Candidate -> what it made of the process when it was loaded.
    """

    def __init__(self, state: ProcessState, settings: Mapping[str, Values]) -> None:
        self._state = state
        self._settings = dict(settings)
        self._differing = state.differing(settings.values())

    @contextlib.contextmanager
    def first(self, key: str) -> Iterator[None]:
        """The candidate's first calls; what they change is its own from then on.

        Raises:
            ProcessChangedError: It changed something that cannot be put back.
        """
        self._give(self._settings[key], None)
        yield
        self._settings[key] = self._state.own()
        self._differing = self._state.differing(self._settings.values())
        self._give(self._state.base, None)

    def take(self, key: str) -> None:
        """From now on the process is as this candidate has it.

        Raises:
            ProcessChangedError: There is no way back from what another one has made of it.
        """
        if self._differing:
            self._give(self._settings[key], self._differing)

    def _give(self, values: Values, parts: Sequence[str] | None) -> None:
        stuck = self._state.give_turn(values, parts)
        if stuck:
            raise ProcessChangedError(changed(stuck))


def changed(parts: Sequence[str]) -> str:
    """What is said of a candidate that changed parts for good."""
    return f"the candidate changed the process for those after it, and it cannot be put back: {', '.join(parts)}"


_OURS = ("default dtype", "default device", "modes", "deterministic algorithms", "gradients", "anomaly detection")
"""Parts that would change, or break, the evaluator's own work with tensors."""

_ONE_WAY = ("modes",)
"""Of these, what a candidate does not get back after the evaluator's work."""
