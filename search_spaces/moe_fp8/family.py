"""What the kernel families of the FP8 block-scale MoE have in common: how they read a definition, and its inputs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from search_spaces.inputs.generator import InputGenerator
from search_spaces.moe_fp8.profiles import routing_profiles
from search_spaces.moe_fp8.proof import prove
from search_spaces.parameters import SpaceError
from search_spaces.space import Proof, SpaceFamily


class MoeFamily(SpaceFamily):
    """A family for FP8 block-scale MoE definitions."""

    @abstractmethod
    def sizes(self, definition: Mapping[str, Any]) -> Mapping[str, Any]:
        """Sizes and routing constants of a definition.

        Raises:
            SpaceError: The family has no kernels for it.
        """

    def why_not(self, definition: Mapping[str, Any]) -> str | None:
        try:
            self.sizes(definition)
        except SpaceError as error:
            return str(error)
        return None

    def prove(self, definition: Mapping[str, Any]) -> Proof:
        return prove(definition)

    def input_generator(self, definition: Mapping[str, Any]) -> InputGenerator | None:
        return routing_profiles()
