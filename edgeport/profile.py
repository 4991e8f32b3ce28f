"""Targets: a board or a class of processors, described by one TOML file each (`targets/*.toml`)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from edgeport.errors import ConfigError, did_you_mean


class Int8Scheme(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How this target wants its integers.

    Attributes:
        weight_bits: 8, or 7 where the core adds pairs of products in 16 bits and would saturate (x86 without VNNI).
        io: `float` keeps float32 at the file's edges, `int8` lets the app feed quantized values.
    """

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
    """

    max_top1_drop: float | None = 1.0
    min_agreement: float | None = 95.0
    min_cosine: float | None = None
    min_float_agreement: float | None = 99.5
    min_float_cosine: float | None = 0.999


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
        profile = msgspec.toml.decode(path.read_bytes(), type=TargetProfile)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(f"target file {path.name}: {error}") from error
    return msgspec.structs.replace(profile, name=path.stem)
