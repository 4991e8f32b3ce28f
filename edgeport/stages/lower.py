"""Write one target's files through its backend, and check the graphs that came out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeport.formats import format_of
from edgeport.formats.quality import check_quality
from edgeport.manifest import code_digest, package_versions
from edgeport.quant.scheme import Scheme
from edgeport.store import Store, digest
from edgeport.types import Artifact, OpCost, Precision

if TYPE_CHECKING:
    from edgeport.backends import Backend
    from edgeport.graph.float_graph import FloatGraph
    from edgeport.profile import TargetProfile

BINDINGS, ARTIFACT = "io.json", "artifact.json"


@dataclass(frozen=True, kw_only=True)
class Lowered:
    """A written artifact with what its file says.

    Attributes:
        key: of the store entry that holds it.
        artifact: the file and its notes.
        costs: an operator a row, read from the file.
        quality: `findings` and figures of the graph check (JSON values).
        seconds: wall seconds that it took when it was made.
        scheme: how an int8 file is written; None: it is no such file.
        chosen: what was measured and chosen for this network before it was written this way (JSON values).
        chosen_notes: what the report should say about that.
    """

    key: str
    artifact: Artifact
    costs: tuple[OpCost, ...]
    quality: dict[str, object]
    seconds: float
    scheme: Scheme | None = None
    chosen: Mapping[str, object] = field(default_factory=dict)
    chosen_notes: tuple[str, ...] = ()


class _Written(msgspec.Struct, frozen=True):
    file: str
    files: list[str]
    backend: str
    precision: Precision
    notes: list[str]
    costs: list[OpCost]
    quality: dict[str, object]
    seconds: float


def lower(  # noqa: PLR0913  # keyword-only past the third
    store: Store,
    backend: Backend,
    profile: TargetProfile,
    graph: Callable[[], FloatGraph],
    *,
    source_key: str,
    float_file: Lowered | None = None,
    precision: Precision | None = None,
    scheme: Scheme | None = None,
) -> Lowered:
    """Return the float file, or with `float_file` the smaller file made beside it, from the store where it is.

    Args:
        store: where finished files lie.
        backend: the target's backend module.
        profile: the target.
        graph: gives the network; called only when the file has to be written.
        source_key: key of the network, or of its calibration (int8).
        float_file: the float file; None: write that.
        precision: of the smaller file; None: int8; float32: the float file without the zeros of its weights.
        scheme: how the int8 file is written; None: as the target asks.

    Raises:
        LoweringError: an operator cannot be expressed.
        MissingPackageError: the backend's tools are not installed.
    """
    precision = "float32" if float_file is None else precision or "int8"
    scheme = scheme or Scheme.of(profile)
    chosen = msgspec.to_builtins(scheme) if precision == "int8" else None
    form = "sparse" if precision == "float32" and float_file is not None else precision
    versions = package_versions(backend.packages)
    key = digest("lower", profile.backend, form, chosen, versions, source_key, code_digest())
    folder = store.get(key)
    if folder is None:
        start = time.perf_counter()
        with store.put(key) as fresh:
            out = fresh / f"model{backend.suffix}"
            if float_file is None:
                artifact = backend.lower_float(graph(), profile, out)
            elif form == "sparse":
                artifact = backend.lower_sparse(graph(), float_file.artifact, out)
            elif precision == "float16":
                artifact = backend.lower_float16(graph(), float_file.artifact, out)
            elif precision == "dynamic_int8":
                artifact = backend.lower_dynamic(graph(), scheme, float_file.artifact, out)
            else:
                artifact = backend.lower_int8(graph(), scheme, float_file.artifact, out)
            (fresh / BINDINGS).write_text(json.dumps(backend.bindings(graph(), out), indent=1) + "\n")
            _describe(fresh, artifact, start)
        folder = store.get(key)
        if folder is None:
            raise FileNotFoundError(f"store entry {key} vanished")
    written = msgspec.json.decode((folder / ARTIFACT).read_bytes(), type=_Written)
    return Lowered(
        key=key,
        artifact=Artifact(
            path=folder / written.file,
            backend=written.backend,
            precision=written.precision,
            files=tuple(folder / name for name in written.files),
            notes=tuple(written.notes),
        ),
        costs=tuple(written.costs),
        quality=written.quality,
        seconds=written.seconds,
        scheme=scheme if precision == "int8" else None,
    )


def _describe(folder: Path, artifact: Artifact, start: float) -> None:
    reader = import_module(f"edgeport.formats.{format_of(artifact.path)}")
    costs = reader.read_costs(artifact.path)
    executed = reader.executed_operators(artifact.path) if artifact.precision == "int8" else ()
    quality = check_quality(costs, executed, backend=artifact.backend)
    written = _Written(
        file=artifact.path.name,
        files=[file.name for file in artifact.files],
        backend=artifact.backend,
        precision=artifact.precision,
        notes=list(artifact.notes),
        costs=list(costs),
        quality=msgspec.to_builtins(quality),
        seconds=time.perf_counter() - start,
    )
    (folder / ARTIFACT).write_bytes(msgspec.json.encode(written))
