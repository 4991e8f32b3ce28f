"""The model files of a finished output folder, and how their values belong to the network's layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgeport.errors import ConfigError
from edgeport.formats import format_of
from edgeport.store import file_digest

RUNTIMES = {"tflite": "tflite", "openvino": "openvino", "onnx": "onnxruntime"}  # format -> who runs it
SUFFIXES = (".tflite", ".xml", ".onnx")
FLOAT = "float32"
AGAIN = "build again with this edgeport"


class Tensor(msgspec.Struct, frozen=True):
    """One input or output of a file, as `io.json` has it."""

    name: str
    tensor: str
    channels_last: bool = False


class Bindings(msgspec.Struct, frozen=True):
    """The content of `io.json`; `layers`: provenance key -> the file's name of that value, in execution order."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    layers: dict[str, str] = {}


class _Listed(msgspec.Struct, frozen=True):
    sha256: str


class _Samples(msgspec.Struct, frozen=True):
    name: str
    digest: str


class Facts(msgspec.Struct, frozen=True):
    """What `manifest.json` says that matters here."""

    files: dict[str, _Listed]
    precision: str = "int8"
    data: dict[str, _Samples] = {}
    seed: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelFile:
    """One model file.

    Attributes:
        label: short and unique: runtime and precision, and the target where a runtime has several.
        name: path below the output folder.
        path: the file.
        target: folder that it lies in; those of identical files are joined by `+`.
        runtime: who runs it.
        precision: number format of its layers.
        bindings: how its values belong to the network.
    """

    label: str
    name: str
    path: Path
    target: str
    runtime: str
    precision: str
    bindings: Bindings

    @property
    def is_float(self) -> bool:
        """Whether it should compute what PyTorch computes, up to rounding of float32."""
        return self.precision == FLOAT


def read_facts(folder: Path) -> Facts:
    """Return what the manifest of an output folder says.

    Raises:
        ConfigError: no such folder, or not one that a build wrote.
    """
    if not folder.is_dir():
        raise ConfigError(f"no folder '{folder}'")
    try:
        return msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Facts)
    except FileNotFoundError as error:
        raise ConfigError(f"no manifest.json in '{folder}': name the output folder of edgeport build") from error
    except (msgspec.MsgspecError, OSError) as error:
        raise ConfigError(f"'{folder / 'manifest.json'}' is not a manifest of edgeport build: {error}") from error


def find_files(folder: Path, facts: Facts) -> tuple[tuple[ModelFile, ...], tuple[str, ...]]:
    """Return the model files that there are, float before int8, and a sentence a file that is missing or was changed.

    Two targets with the very same file are one.

    Raises:
        ConfigError: there is none, or an `io.json` cannot be read.
    """
    names = sorted(name for name in facts.files if name.count("/") == 1 and name.endswith(SUFFIXES))
    missing = [f"{name} is missing" for name in _parts(facts) if not (folder / name).is_file()]
    changed = [
        f"{name} is not what the build wrote"
        for name in _parts(facts)
        if (folder / name).is_file() and file_digest(folder / name) != facts.files[name].sha256
    ]
    contents: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        if (folder / name).is_file():
            parts = [folder / name, (folder / name).with_suffix(".bin")]
            sums = tuple(file_digest(part) for part in parts if part.is_file())
            contents.setdefault((Path(name).suffix, *sums), []).append(name)
    if not contents:
        raise ConfigError(f"no model.tflite, model.xml or model.onnx is left in the folders of '{folder}'")
    found = [_model_file(folder, group, facts) for group in contents.values()]
    found.sort(key=lambda file: (not file.is_float, file.runtime, file.target))
    return _labelled(found), (*missing, *changed)


def _parts(facts: Facts) -> list[str]:
    suffixes = (*SUFFIXES, ".bin", ".safetensors", "network.json")
    return sorted(name for name in facts.files if name.endswith(suffixes))


def _model_file(folder: Path, names: list[str], facts: Facts) -> ModelFile:
    first = next((name for name in names if Path(name).stem == "model-float"), names[0])
    path = folder / first
    is_float = Path(first).stem == "model-float" or facts.precision == FLOAT
    return ModelFile(
        label="",
        name=first,
        path=path,
        target="+".join(dict.fromkeys(name.partition("/")[0] for name in names)),
        runtime=RUNTIMES[format_of(path)],
        precision=FLOAT if is_float else facts.precision,
        bindings=_read_bindings(path.with_name("io.json")),
    )


def _read_bindings(path: Path) -> Bindings:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Bindings)
    except FileNotFoundError as error:
        raise ConfigError(f"'{path}' is missing: {AGAIN}") from error
    except (msgspec.MsgspecError, OSError) as error:
        raise ConfigError(f"'{path}' is no map of a file's tensors: {error}") from error


def _labelled(files: list[ModelFile]) -> tuple[ModelFile, ...]:
    plain = [f"{file.runtime} {file.precision}" for file in files]
    labels = [
        label if plain.count(label) == 1 else f"{label} {file.target}" for label, file in zip(plain, files, strict=True)
    ]
    return tuple(_with_label(file, label) for file, label in zip(files, labels, strict=True))


def _with_label(file: ModelFile, label: str) -> ModelFile:
    from dataclasses import replace

    return replace(file, label=label)


def by_layer(bindings: Bindings) -> Mapping[str, str]:
    """Return the file's name of a value -> provenance key."""
    return {tensor: key for key, tensor in bindings.layers.items()}
