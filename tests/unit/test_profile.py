"""Targets are data: the shipped ones, a file of one's own, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeport.backends import NAMES
from edgeport.errors import ConfigError
from edgeport.profile import Int8Scheme, Limits, TargetProfile, data_folder, known_targets, load

MINIMAL = 'description = "mine"\nbackend = "tflite"\nisa = "aarch64"\n'


def test_shipped_targets_are_those_in_the_folder(root: Path) -> None:
    assert data_folder("targets") == root / "targets"
    assert known_targets() == sorted(path.stem for path in (root / "targets").glob("*.toml"))
    assert {"arm64", "cpu", "intel"} <= set(known_targets())


@pytest.mark.parametrize("name", known_targets())
def test_shipped_target_loads(name: str) -> None:
    profile = load(name)
    assert profile.name == name
    assert profile.description
    assert profile.backend in NAMES
    assert profile.threads >= 1
    assert profile.channel_multiple >= 1


def test_target_of_ones_own_has_its_files_name_and_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "my-board.toml"
    path.write_text(MINIMAL)
    assert load(str(path)) == TargetProfile(
        name="my-board",
        description="mine",
        backend="tflite",
        isa="aarch64",
        threads=1,
        channel_multiple=8,
        int8=Int8Scheme(accumulator="int32", weight_bits=8, io="float"),
        limits=Limits(
            max_top1_drop=1.0,
            min_agreement=95.0,
            min_cosine=None,
            min_float_agreement=99.5,
            min_float_cosine=0.999,
            max_flips=0,
            max_logit_difference=0.0,
        ),
    )


def test_every_key_is_read(tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_text(
        MINIMAL + 'cores = ["cortex-a53"]\nextensions = ["sdot"]\nthreads = 4\nchannel_multiple = 16\n'
        'int8.weight_bits = 7\nint8.io = "int8"\nlimits.max_top1_drop = 2.5\nlimits.min_agreement = 90\n'
    )
    profile = load(str(path))
    assert (profile.cores, profile.extensions) == (("cortex-a53",), ("sdot",))
    assert (profile.threads, profile.channel_multiple) == (4, 16)
    assert profile.int8 == Int8Scheme(weight_bits=7, io="int8")
    assert (profile.limits.max_top1_drop, profile.limits.min_agreement) == (2.5, 90.0)


@pytest.mark.parametrize(
    ("text", "accumulator", "weight_bits"),
    [
        ('backend = "tflite"\nisa = "aarch64"\n', "int32", 8),
        ('backend = "onnxruntime"\nisa = "aarch64"\n', "int32", 8),
        ('backend = "onnxruntime"\nisa = "x86_64"\n', "int16_pairs", 7),
        ('backend = "openvino"\nisa = "any"\nextensions = ["avx2"]\n', "int16_pairs", 7),
        ('backend = "openvino"\nisa = "x86_64"\nextensions = ["avx2", "vnni"]\n', "int32", 8),
        ('backend = "tflite"\nisa = "any"\n', "int32", 8),
        ('backend = "openvino"\nisa = "x86_64"\nint8.accumulator = "int32"\n', "int32", 8),
        ('backend = "openvino"\nisa = "x86_64"\nint8.weight_bits = 8\n', "int16_pairs", 8),
        ('backend = "openvino"\nisa = "aarch64"\nint8.accumulator = "int16_pairs"\n', "int16_pairs", 7),
    ],
)
def test_weight_bits_follow_from_how_the_processor_adds(
    tmp_path: Path, text: str, accumulator: str, weight_bits: int
) -> None:
    path = tmp_path / "board.toml"
    path.write_text('description = "mine"\n' + text)
    found = load(str(path)).int8
    assert (found.accumulator, found.weight_bits) == (accumulator, weight_bits)


@pytest.mark.parametrize("name", known_targets())
def test_shipped_target_states_its_accumulator(name: str, root: Path) -> None:
    assert "int8.accumulator = " in (root / "targets" / f"{name}.toml").read_text()
    scheme = load(name).int8
    assert scheme.weight_bits == (7 if scheme.accumulator == "int16_pairs" else 8)


def test_unknown_target_names_the_known_and_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        load("arm46")
    known = ", ".join(known_targets())
    assert str(caught.value) == f"unknown target 'arm46'; known: {known} (did you mean arm64?)"


def test_missing_target_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no target file '.*nothing\.toml'"):
        load(str(tmp_path / "nothing.toml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL + "channels = 8\n", "unknown field `channels`"),
        (MINIMAL + "int8.bits = 8\n", "unknown field `bits`"),
        (MINIMAL + "int8.weight_bits = 4\n", "Invalid enum value 4"),
        (MINIMAL + 'int8.accumulator = "int16"\n', "Invalid enum value 'int16'"),
        (MINIMAL + "int8 = 3\n", r"Expected `object`, got `int` - at `\$.int8`"),
        (MINIMAL + 'threads = "two"\n', r"Expected `int`, got `str` - at `\$.threads`"),
        (MINIMAL.replace("aarch64", "riscv"), "Invalid enum value 'riscv'"),
        ('backend = "tflite"\n', "missing required field"),
        ("backend = = 3", "Invalid value"),
    ],
)
def test_wrong_target_file_is_told_with_its_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"target file wrong.toml: .*{message}"):
        load(str(path))


def test_target_file_that_is_not_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"target file wrong\.toml"):
        load(str(tmp_path / "wrong.toml"))
