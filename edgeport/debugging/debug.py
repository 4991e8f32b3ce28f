"""`edgeport debug`: open a finished folder, look into every file, and judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeport.debugging.files import AGAIN, ModelFile, find_files, read_facts
from edgeport.debugging.inputs import Sample, choose_samples
from edgeport.debugging.median import known_layers, study_by_median
from edgeport.debugging.network import Network, open_network
from edgeport.debugging.probe import Probe, check_runs, open_probe
from edgeport.debugging.study import Layers, Study, study
from edgeport.debugging.verdict import Verdict, judge
from edgeport.errors import ConfigError, MissingPackageError
from edgeport.formats import reader_of
from edgeport.stages.persistence import NETWORK, WEIGHTS

Refused = dict[str, ConfigError | MissingPackageError]
KEPT_DB = 20.0  # below that, looking at the values changed the answer too much to speak for the file


@dataclass(frozen=True, kw_only=True)
class Debugged:
    """What `edgeport debug` found.

    Attributes:
        reference: what the files were compared with, in words.
        samples: what they were run on, in words.
        studies: a file each, with its errors.
        layers: provenance keys that at least one file shows, in execution order.
        names: provenance key -> how the layer is called.
        verdict: who is wrong.
        notes: sentences: files that are missing, changed or damaged, and what limits the comparison.
        unread: names of files that are damaged; those whose runtime is not installed are only in the notes.
    """

    reference: str
    samples: str
    studies: tuple[Study, ...]
    layers: tuple[str, ...]
    names: Mapping[str, str]
    verdict: Verdict
    notes: tuple[str, ...]
    unread: tuple[str, ...]

    @property
    def is_anyone_wrong(self) -> bool:
        """Whether a file is wrong or cannot be read; a fragile layer is nobody's fault."""
        return bool(self.verdict.odd or self.verdict.undecided or self.unread)


def debug(folder: Path, *, data: str | None = None, count: int = 8) -> Debugged:
    """Compare all files of an output folder, layer by layer.

    Args:
        folder: of `edgeport build`.
        data: samples; None: the build's evaluation samples, else random ones.
        count: how many samples.

    Raises:
        ConfigError: not such a folder, no file in it can be read, or data that does not fit.
        MissingPackageError: no file's runtime is installed.
    """
    if count < 1:
        raise ConfigError(f"--samples {count}: 1 or more")
    facts = read_facts(folder)
    files, notes = find_files(folder, facts)
    sound, damaged = _sound(files)
    samples, described = choose_samples(facts, sound, lambda: _input_spans(sound), data=data, count=count)
    network, doubt = _network(folder, samples)
    keys = network.keys if network is not None else known_layers(sound)
    probes, refused = _probes(sound, keys, samples[0])
    unread = damaged | refused
    if network is not None:
        studies = study(network, probes, samples)
        layers: Layers = network
        reference = "the float network in PyTorch (network.json, model.safetensors)"
    else:
        layers, studies, reference = study_by_median(keys, probes, samples)
    seen = tuple(key for key in keys if any(key in found.layers for found in studies))
    if not seen:
        raise ConfigError(f"no layer of '{folder}' is known to any file: {AGAIN}")
    return Debugged(
        reference=reference,
        samples=described,
        studies=studies,
        layers=seen,
        names={key: layers.layer_key(key) for key in seen},
        verdict=judge(layers, studies, has_torch=network is not None),
        notes=(
            *notes,
            *(f"{name} is left out: {error}" for name, error in unread.items()),
            *doubt,
            *_disturbed(studies),
        ),
        unread=tuple(name for name, error in unread.items() if isinstance(error, ConfigError)),
    )


def _sound(files: Sequence[ModelFile]) -> tuple[tuple[ModelFile, ...], Refused]:
    """Return the files that can be read, and name -> why not of the others.

    Raises:
        ConfigError: none can.
    """
    found: list[ModelFile] = []
    reasons: Refused = {}
    for file in files:
        try:
            reader_of(file.path).read_interface(file.path)
            found.append(file)
        except (ConfigError, MissingPackageError) as error:
            reasons[file.name] = error
    if not found:
        raise ConfigError("; ".join(str(reason) for reason in reasons.values()))
    return tuple(found), reasons


def _probes(files: Sequence[ModelFile], keys: Sequence[str], sample: Sample) -> tuple[dict[ModelFile, Probe], Refused]:
    """Return the files that run one sample, and name -> why not of those that their runtime refuses.

    Raises:
        ConfigError: it refuses all, or no runtime is installed.
    """
    found: dict[ModelFile, Probe] = {}
    reasons: Refused = {}
    for file in files:
        try:
            probe = open_probe(file, keys)
            check_runs(file, probe, sample)
            found[file] = probe
        except (ConfigError, MissingPackageError) as error:
            reasons[file.name] = error
    if not found:
        raise ConfigError("; ".join(str(reason) for reason in reasons.values()))
    return found, reasons


def _network(folder: Path, samples: Sequence[Sample]) -> tuple[Network | None, tuple[str, ...]]:
    """Return PyTorch's network, or None with the reason."""
    try:
        found = open_network(folder, samples[0])
    except ConfigError as error:
        return None, (f"PyTorch is left out: {error}",)
    return found, () if found is not None else (f"PyTorch is left out: no {NETWORK} or {WEIGHTS} in the folder",)


def _input_spans(files: Sequence[ModelFile]) -> Mapping[str, tuple[float, float]]:
    """Return key of an input -> its range in the first int8 file."""
    for file in files:
        if not file.is_float:
            return open_probe(file, [f"/{binding.name}" for binding in file.bindings.inputs]).spans
    return {}


def _disturbed(studies: Sequence[Study]) -> list[str]:
    return [
        f"{found.file.label}: looking at its values changes its answer ({found.kept.sqnr_db:.1f} dB between both): "
        "what is said of its layers may not hold for the file as it ships"
        for found in studies
        if found.kept.sqnr_db < KEPT_DB
    ]
