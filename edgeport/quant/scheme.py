"""How one int8 file is written: the target's arithmetic, and what was chosen for this network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from edgeport.types import WeightBits  # schemes are read back from the store by their types

if TYPE_CHECKING:
    from edgeport.profile import TargetProfile

Raised = Literal["int16", "float16", "float32"]  # number formats of layers that int8 is too coarse for


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """Choices for one int8 file; JSON values only, so that a digest of it can be taken.

    Attributes:
        weight_bits: 8, or 7 where the processor adds pairs of products in 16 bits; or fewer, as asked for. A layer's
            own follow from it (`layers.layer_bits`).
        io: `float` keeps float32 at the file's edges, `int8` takes and gives integers (TFLite only).
        activation: integer type of activations. TFLite: always int8. OpenVINO: `int8` makes quantizers symmetric, and
            what is never negative stays uint8 without a zero point.
        per_channel: one weight scale an output channel; False: one a layer.
        raised: provenance key of a convolution or linear layer -> the format that it computes in instead of int8.
    """

    weight_bits: WeightBits = 8
    io: Literal["float", "int8"] = "float"
    activation: Literal["uint8", "int8"] = "uint8"
    per_channel: bool = True
    raised: Mapping[str, Raised] = field(default_factory=dict)

    @classmethod
    def of(cls, profile: TargetProfile, weight_bits: WeightBits | None = None) -> Scheme:
        """Return what a target asks for, before anything was chosen for a network; with fewer bits where asked for."""
        return cls(weight_bits=weight_bits or profile.int8.weight_bits, io=profile.int8.io)

    def unlike(self, trained: Scheme, *, backend: str) -> tuple[str, ...]:
        """Return what sets the numbers of this file apart from those of another scheme, in words.

        In ONNX Runtime's files signed activations are the unsigned ones shifted: the same numbers.

        Args:
            trained: what quantization-aware training computed.
            backend: of the file.
        """
        changes = {
            f"{self.weight_bits}-bit weights": self.weight_bits != trained.weight_bits,
            "symmetric activations": self.activation != trained.activation and backend == "openvino",
            "one weight scale a layer": self.per_channel != trained.per_channel,
            f"layers in {', '.join(sorted(set(self.raised.values())))}": self.raised != trained.raised,
        }
        return tuple(words for words, is_so in changes.items() if is_so)
