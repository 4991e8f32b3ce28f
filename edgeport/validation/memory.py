"""Size on disk, memory that a file needs, and peak memory of a process that runs it."""

from __future__ import annotations

from edgeport.types import Artifact, Metric, Origin


def size_metrics(artifact: Artifact, float_artifact: Artifact | None) -> list[Metric]:
    """Return `size_bytes` and `size_compressed_bytes`; beside a float file, `size_float_bytes` and `compression` too.

    `compression` is float size / this size.
    """
    size = artifact.size_bytes
    compressed = artifact.compressed_bytes
    found = [
        Metric(name="size_bytes", value=size, unit="bytes", origin="measured"),
        Metric(name="size_compressed_bytes", value=compressed, unit="bytes", origin="measured"),
    ]
    if float_artifact is not None:
        other = float_artifact.size_bytes
        found.append(Metric(name="size_float_bytes", value=other, unit="bytes", origin="measured"))
        found.append(Metric(name="compression", value=other / size, unit="x", origin="measured"))
    return found


def ram_metrics(artifact: Artifact) -> list[Metric]:
    """Return `arena_bytes` and `ram_bytes` of a TFLite file, read from the file; nothing for other formats.

    `arena_bytes` is what its activations take (`formats.arena`), `ram_bytes` that and the file itself, which apps map
    into memory. The interpreter's code is in neither.
    """
    if artifact.path.suffix != ".tflite":
        return []
    from edgeport.formats.tflite import read_arena_bytes

    arena = read_arena_bytes(artifact.path)
    return [
        Metric(name="arena_bytes", value=arena, unit="bytes", origin="measured"),
        Metric(name="ram_bytes", value=arena + artifact.size_bytes, unit="bytes", origin="measured"),
    ]


def peak_metrics(peak_rss_bytes: int | None, *, origin: Origin, suffix: str = "") -> list[Metric]:
    """Return `peak_rss_bytes` of the process that ran one file: Python, numpy, the runtime and the file together.

    Nothing where the system does not tell (Windows).
    """
    if peak_rss_bytes is None:
        return []
    return [Metric(name=f"peak_rss_bytes{suffix}", value=peak_rss_bytes, unit="bytes", origin=origin)]
