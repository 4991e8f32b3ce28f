"""One runtime a file: lower to its format and say how its file is fed. Found by file name, imported when used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgeport.graph.float_graph import FloatGraph
    from edgeport.profile import TargetProfile
    from edgeport.quant.arithmetic import Arithmetic
    from edgeport.quant.scheme import Raised, Scheme
    from edgeport.types import Artifact

NAMES = ("onnxruntime", "openvino", "tflite")


class Backend(Protocol):
    """What a module in this folder offers.

    Attributes:
        suffix: of its files, with the dot.
        packages: distribution names whose versions decide what it writes.
        raised_formats: what `Scheme.raised` may ask of it; the first is as exact as the float file.
        stores_zeros: whether its files can leave the zeros of float32 weights out (`lower_sparse`).
        arithmetic: where its int8 files round.
    """

    suffix: str
    packages: tuple[str, ...]
    raised_formats: tuple[Raised, ...]
    stores_zeros: bool
    arithmetic: Arithmetic

    def lower_float(self, graph: FloatGraph, profile: TargetProfile, out: Path) -> Artifact:
        """Write the float32 file to `out`.

        Raises:
            MissingPackageError: the runtime's tools are not installed.
            LoweringError: an operator cannot be expressed; it is named.
        """
        ...

    def lower_int8(self, graph: FloatGraph, scheme: Scheme, float_file: Artifact, out: Path) -> Artifact:
        """Write the statically quantized file to `out`, with the ranges of `graph`; same errors."""
        ...

    def lower_float16(self, graph: FloatGraph, float_file: Artifact, out: Path) -> Artifact:
        """Write the network to `out` with float16 weights, which a runtime widens to float32; same errors."""
        ...

    def lower_dynamic(self, graph: FloatGraph, scheme: Scheme, float_file: Artifact, out: Path) -> Artifact:
        """Write the network to `out` with int8 weights and float activations; no ranges are needed; same errors."""
        ...

    def lower_sparse(self, graph: FloatGraph, float_file: Artifact, out: Path) -> Artifact:
        """Write the float32 network to `out` without its weights' zeros; only where `stores_zeros`; same errors."""
        ...

    def bindings(self, graph: FloatGraph, path: Path) -> Mapping[str, object]:
        """Return how a file's tensors belong to the network's inputs and outputs: the content of `io.json`."""
        ...


def backend(name: str) -> Backend:
    """Return the backend module of that name."""
    if name not in NAMES:
        raise ValueError(f"no backend '{name}'")
    return cast(Backend, import_module(f"edgeport.backends.{name}"))
