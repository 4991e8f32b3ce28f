"""Targets: a board or a class of processors, described by one TOML file each (`targets/*.toml`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from edgeport.cost_model import CostModel, Rates, Terms
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
        max_latency_ms: median milliseconds of an inference.
        max_energy_mj: millijoules of an inference.
        max_size_bytes: of the shipped file.
        max_ram_bytes: of weights and activations (TFLite), or of the process (other runtimes).
    """

    max_top1_drop: float | None = 1.0
    min_agreement: float | None = 95.0
    min_cosine: float | None = None
    min_float_agreement: float | None = 99.5
    min_float_cosine: float | None = 0.999
    max_flips: int | None = 0
    max_logit_difference: float | None = 0.0
    max_latency_ms: float | None = None
    max_energy_mj: float | None = None
    max_size_bytes: float | None = None
    max_ram_bytes: float | None = None


class CostLike(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another target's cost model, for a board that nobody metered, or only with one network.

    Attributes:
        target: whose board was metered.
        factor: of the interval, at least: 1.6 where one network was metered here and gave the scales, 2 for a board
            with cores of the same kind, 3 for one with older ones.
        energy: whether joules may be given; without them there are ratios alone.
        energy_scale: metered energy of one network on this board / what the other's model says.
        latency_scale: the same for its median latency.
        why: what makes the boards alike, for the report.
    """

    target: str
    factor: float
    why: str
    energy: bool = False
    energy_scale: float = 1.0
    latency_scale: float = 1.0


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
        cost: what latency and energy are predicted from; None: they are not.
        cost_like: the same, taken from another target; `load` makes `cost` of it.
        boards: targets that stand for this one where it is no single board: figures are predicted for each.
    """

    name: str = ""
    description: str
    backend: str
    isa: Literal["aarch64", "armv7l", "x86_64", "any"]
    cores: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    threads: int = 1
    channel_multiple: int = 8
    int8: Int8Scheme = Int8Scheme()
    limits: Limits = Limits()
    cost: CostModel | None = None
    cost_like: CostLike | None = None
    boards: tuple[str, ...] = ()

    @property
    def cost_models(self) -> dict[str, CostModel]:
        """Name behind the `@` of a figure -> cost model: this target's own (an empty name), or those of its boards.

        Raises:
            ConfigError: a board is no target, or has no cost model.
        """
        if self.cost is not None:
            return {"": self.cost}
        return {f"@{name}": _cost_of(name) for name in self.boards}


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
    if profile.cost_like is not None:
        if profile.cost is not None:
            raise ConfigError(f"target file {path.name}: cost or cost_like, not both")
        profile = msgspec.structs.replace(profile, cost=_borrowed(profile.cost_like))
    return msgspec.structs.replace(profile, name=path.stem)


def _cost_of(name: str) -> CostModel:
    found = load(name).cost
    if found is None:
        raise ConfigError(f"target '{name}' has no cost model")
    return found


def _borrowed(like: CostLike) -> CostModel:
    """Return another target's cost model, scaled, with intervals that are at least as wide as the likeness allows."""

    def scaled(terms: Terms, scale: float) -> Terms:
        return Terms(**{name: value * scale for name, value in msgspec.structs.asdict(terms).items()})

    def rates(own: Rates) -> Rates:
        return Rates(
            latency_ns=scaled(own.latency_ns, like.latency_scale),
            energy_nj=scaled(own.energy_nj, like.energy_scale),
            latency_factor=max(like.factor, own.latency_factor),
            energy_factor=max(like.factor, own.energy_factor),
        )

    metered = _cost_of(like.target)
    return msgspec.structs.replace(
        metered,
        source=f"{like.why}; {metered.source}",
        board=metered.board or like.target,
        has_joules=metered.has_joules and like.energy,
        int8=rates(metered.int8),
        float32=rates(metered.float32),
    )


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
