"""Targets: a board or a class of processors, described by one TOML file each (`targets/*.toml`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from edgeport.errors import ConfigError, did_you_mean

Accumulator = Literal["int32", "int16_pairs"]


class Int8Scheme(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How this target computes with integers, and how it wants them.

    A target file without `accumulator` gets `int32` on `aarch64`, with the extension `vnni` or with the tflite backend,
    else `int16_pairs`; without `weight_bits` they follow from the accumulator (see `load`).

    Attributes:
        accumulator: what the kernels add products in. `int32`: exactly, in 32 bits (VNNI, SDOT, and XNNPACK on every
            processor). `int16_pairs`: two neighbouring products of uint8 activations and int8 weights in 16 bits that
            saturate (`vpmaddubsw` of x86 without VNNI: 255 x 127 x 2 = 64,770 > 32,767), such pairs in 32 bits.
        weight_bits: 8; 7 with `int16_pairs`, where no pair can saturate then (255 x 63 x 2 = 32,130).
        io: `float` keeps float32 at the file's edges, `int8` lets the app feed quantized values.
    """

    accumulator: Accumulator = "int32"
    weight_bits: Literal[7, 8] = 8
    io: Literal["float", "int8"] = "float"


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a build may cost before its verdict is `fail`; None is not judged.

    Attributes:
        max_top1_drop: points of top-1 below the float network that came in.
        min_agreement: percent of samples with the same top-1 as the float network that was lowered.
        min_cosine: lowest cosine of any sample's output with the float network that was lowered.
        min_float_agreement: the same for the float file, whose only fault can be a wrong conversion.
        min_float_cosine: the same for the float file.
        max_flips: samples whose top-1 may change on an emulated processor, against exact integer arithmetic.
        max_logit_difference: how far an output may be off there. 0, because without saturation nothing differs.
    """

    max_top1_drop: float | None = 1.0
    min_agreement: float | None = 95.0
    min_cosine: float | None = None
    min_float_agreement: float | None = 99.5
    min_float_cosine: float | None = 0.999
    max_flips: int | None = 0
    max_logit_difference: float | None = 0.0


class TargetProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One target.

    Attributes:
        name: the file's stem; filled in by `load`.
        description: one line for `edgeport targets`.
        backend: name of a module in `edgeport.backends`.
        isa: instruction set of the processor, as `platform.machine()` names it: `aarch64`, `x86_64`, or `any`.
        cores: processor cores this target stands for, e.g. `cortex-a72`.
        threads: threads that the runtime gets.
        channel_multiple: channel counts that the kernels like; pruning rounds to it.
        int8: integer scheme.
        limits: what decides the verdict.
        extensions: what the integer kernels rely on, e.g. `vnni`, `sdot`, `avx2`.
    """

    name: str = ""
    description: str
    backend: str
    isa: Literal["aarch64", "x86_64", "any"]
    cores: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    threads: int = 1
    channel_multiple: int = 8
    int8: Int8Scheme = Int8Scheme()
    limits: Limits = Limits()


def data_folder(name: str) -> Path:
    """Return the folder of shipped data files: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).resolve().parent
    inside = package / "_data" / name
    return inside if inside.is_dir() else package.parent / name


def known_targets() -> list[str]:
    """Names of the shipped targets, sorted."""
    return sorted(path.stem for path in data_folder("targets").glob("*.toml"))


def load(name_or_path: str) -> TargetProfile:
    """Return the target of that name, or the one in that `.toml` file.

    Raises:
        ConfigError: no such target, or its file has an unknown or ill-typed key.
    """
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        if not path.is_file():
            raise ConfigError(f"no target file '{name_or_path}'")
    else:
        path = data_folder("targets") / f"{name_or_path}.toml"
        if name_or_path not in known_targets():
            known = known_targets()
            raise ConfigError(
                f"unknown target '{name_or_path}'; known: {', '.join(known)}{did_you_mean(name_or_path, known)}"
            )
    try:
        profile = msgspec.convert(_completed(msgspec.toml.decode(path.read_bytes())), TargetProfile)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(f"target file {path.name}: {error}") from error
    return msgspec.structs.replace(profile, name=path.stem)


def _completed(content: dict[str, Any]) -> dict[str, Any]:
    """Return a target file's content with the integer arithmetic that it leaves out; what is ill-typed stays so."""
    scheme = content.get("int8", {})
    if not isinstance(scheme, dict):
        return content
    extensions = content.get("extensions", ())
    is_exact = (
        content.get("isa") == "aarch64"
        or content.get("backend") == "tflite"
        or (isinstance(extensions, list) and "vnni" in extensions)
    )
    accumulator = scheme.get("accumulator", "int32" if is_exact else "int16_pairs")
    bits = 7 if accumulator == "int16_pairs" else 8
    return {**content, "int8": {"weight_bits": bits, **scheme, "accumulator": accumulator}}
