"""Pictures: decoding, geometry, normalisation, class folders, caching, damage."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgeport.dataset import open_dataset, sources
from edgeport.dataset.decode import Preprocess, decode_picture
from edgeport.errors import ConfigError


def noise(count: int, height: int = 6, width: int = 8, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def encoded(pixels: np.ndarray, suffix: str = "png") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, suffix)
    return stream.getvalue()


def picture_folder(folder: Path, pixels: np.ndarray, names: list[str]) -> Path:
    for name, picture in zip(names, pixels, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(picture))
    return folder


def recipe(path: Path, **keys: object) -> str:
    path.write_text("\n".join(f"{key} = {value!r}" for key, value in keys.items()))
    return str(path)


def packed(path: Path, files: list[bytes]) -> str:
    offsets = np.cumsum([0, *map(len, files)])
    np.savez(path, jpeg=np.frombuffer(b"".join(files), np.uint8), offsets=offsets)
    return str(path)


def test_values_are_scaled_then_normalised(tmp_path: Path) -> None:
    images = np.array([[[[0, 51, 255]]]], np.uint8)  # one pixel: 0, 0.2, 1
    np.savez(tmp_path / "one.npz", images=images)
    (plain,) = open_dataset(str(tmp_path / "one.npz")).batches(1)
    np.testing.assert_array_equal(plain.inputs[0], np.array([0, 0.2, 1], np.float32).reshape(1, 3, 1, 1))
    path = recipe(tmp_path / "r.toml", source="one.npz", mean=[0.5, 0.2, 0.5], std=[0.5, 1.0, 0.25])
    (batch,) = open_dataset(path).batches(1)
    np.testing.assert_array_equal(batch.inputs[0].ravel(), np.array([-1, 0, 2], np.float32))


def test_batches_are_contiguous_float32_nchw(tmp_path: Path) -> None:
    images = noise(3)
    np.savez(tmp_path / "d.npz", images=images)
    dataset = open_dataset(str(tmp_path / "d.npz"))
    (batch,) = dataset.batches(3)
    values = batch.inputs[0]
    assert (values.dtype.name, values.flags.c_contiguous, dataset.shapes) == ("float32", True, ((3, 6, 8),))
    np.testing.assert_array_equal(values, images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("shape", [(4, 5, 7), (4, 5, 7, 1)])
def test_grey_arrays_keep_one_channel(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images = noise(4, 5, 7, 1).reshape(shape)
    np.savez(tmp_path / "grey.npz", images=images)
    path = recipe(tmp_path / "r.toml", source="grey.npz", crop=3, mean=[0.5], std=[0.5])
    dataset = open_dataset(path)
    assert dataset.shapes == ((1, 3, 3),)
    (batch,) = dataset.batches(4)
    expected = images.reshape(4, 5, 7)[:, 1:4, 2:5] / 255 * 2 - 1
    np.testing.assert_allclose(batch.inputs[0][:, 0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "crop", "top", "left"),
    [((5, 5), 3, 1, 1), ((4, 9), 3, 0, 3), ((6, 8), 3, 2, 2), ((3, 3), 3, 0, 0)],  # halves round to even
)
def test_crop_alone_is_the_centre(size: tuple[int, int], crop: int, top: int, left: int) -> None:
    pixels = noise(1, *size)[0]
    np.testing.assert_array_equal(Preprocess(crop=crop).fit(pixels, "it"), pixels[top : top + crop, left : left + crop])


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(10, 17, (5, 8)), (17, 10, (8, 5)), (10, 10, (5, 5)), (5, 9, (5, 9))]
)
def test_resize_sets_the_short_side(height: int, width: int, expected: tuple[int, int]) -> None:
    assert Preprocess(resize=5).fit(noise(1, height, width)[0], "it").shape == (*expected, 3)


def test_resize_then_crop_is_what_pillow_does() -> None:
    pixels = noise(1, 40, 60)[0]
    resized = np.asarray(Image.fromarray(pixels).resize((30, 20), Image.Resampling.BICUBIC))
    found = Preprocess(resize=20, crop=16, interpolation="bicubic").fit(pixels, "it")
    np.testing.assert_array_equal(found, resized[2:18, 7:23])


def test_grey_pictures_are_resized_like_a_channel_of_colour() -> None:
    pixels = noise(1, 9, 7)[0]
    prepare = Preprocess(resize=4, crop=4)
    np.testing.assert_array_equal(prepare.fit(pixels[..., 1:2], "it"), prepare.fit(pixels, "it")[..., 1:2])


def test_crop_ratio_crops_before_it_resizes() -> None:
    pixels = noise(1, 8, 12)[0]
    found = Preprocess(crop=3, crop_ratio=0.75, interpolation="nearest").fit(pixels, "it")
    np.testing.assert_array_equal(found, pixels[1:7, 3:9][1::2, 1::2])  # 6x6 centre; nearest takes pixels 1, 3, 5


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_interpolations_are_pillows(interpolation: str) -> None:
    pixels = noise(1, 12, 12)[0]
    image = Image.fromarray(pixels).resize((5, 5), Image.Resampling[interpolation.upper()])
    np.testing.assert_array_equal(
        Preprocess(resize=5, interpolation=interpolation).fit(pixels, "it"), np.asarray(image)
    )


def test_class_folders_label_in_sorted_order(tmp_path: Path) -> None:
    names = ["cat/b.png", "ant/2.png", "cat/a.PNG", "ant/1.png"]
    pixels = noise(4)
    folder = picture_folder(tmp_path / "d", pixels, names)
    (folder / "cat/notes.txt").write_text("no picture")
    (folder / ".hidden").mkdir()
    dataset = open_dataset(str(folder))
    labels = dataset.labels()
    assert (dataset.name, dataset.classes) == ("d", ("ant", "cat"))
    assert labels is not None
    assert labels.tolist() == [0, 0, 1, 1]
    (batch,) = dataset.batches(4)
    np.testing.assert_array_equal(np.rint(batch.inputs[0] * 255), pixels[[3, 1, 2, 0]].transpose(0, 3, 1, 2))


def test_flat_folder_has_no_labels(tmp_path: Path) -> None:
    dataset = open_dataset(str(picture_folder(tmp_path / "flat", noise(2), ["b.png", "a.png"])))
    assert (len(dataset), dataset.has_labels, dataset.labels(), dataset.classes) == (2, False, None, ())


def test_recipe_classes_number_the_folders_of_these_names(tmp_path: Path) -> None:
    picture_folder(tmp_path / "d", noise(2), ["ant/1.png", "cat/1.png"])
    dataset = open_dataset(recipe(tmp_path / "r.toml", source="d", classes=["cat", "dog", "ant"]))
    assert dataset.classes == ("cat", "dog", "ant")
    labels = dataset.labels()
    assert labels is not None
    assert labels.tolist() == [2, 0]
    renamed = open_dataset(recipe(tmp_path / "s.toml", source="d", classes=["insect", "pet"])).labels()
    assert renamed is not None
    assert renamed.tolist() == [0, 1]


@pytest.mark.parametrize("classes", [["ant", "dog"], ["cat"], ["insect", "pet", "plant"]])
def test_recipe_classes_that_do_not_fit_the_folders_are_refused(tmp_path: Path, classes: list[str]) -> None:
    picture_folder(tmp_path / "d", noise(2), ["ant/1.png", "cat/1.png"])
    with pytest.raises(ConfigError, match="not among the"):
        open_dataset(recipe(tmp_path / "r.toml", source="d", classes=classes))


def test_an_empty_class_folder_keeps_its_number(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "d", noise(1), ["cat/1.png"])
    (folder / "ant").mkdir()
    labels = open_dataset(str(folder)).labels()
    assert labels is not None
    assert labels.tolist() == [1]


def test_equal_pictures_have_equal_digests_in_every_container(tmp_path: Path) -> None:
    pixels = noise(3)
    folder = picture_folder(tmp_path / "d", pixels, ["0.png", "1.png", "2.png"])
    np.savez(tmp_path / "images.npz", images=pixels)
    files = packed(tmp_path / "files.npz", [encoded(picture) for picture in pixels])
    small = recipe(tmp_path / "small.toml", source="images.npz", resize=3, mean=[0.5] * 3)
    found = [open_dataset(str(data)).sample_digests() for data in (folder, tmp_path / "images.npz", files, small)]
    assert found[0] == found[1] == found[2] == found[3]
    assert len(set(found[0])) == 3
    assert {len(digest) for digest in found[0]} == {16}


def test_grey_pictures_have_the_same_digest_as_file_and_as_array(tmp_path: Path) -> None:
    grey = noise(1, 4, 4, 1)
    folder = picture_folder(tmp_path / "d", grey[..., 0], ["a.png"])
    np.savez(tmp_path / "images.npz", images=grey)
    assert open_dataset(str(folder)).sample_digests() == open_dataset(str(tmp_path / "images.npz")).sample_digests()


def test_same_bytes_of_other_size_have_another_digest(tmp_path: Path) -> None:
    for name, shape in (("wide", (1, 2, 8, 3)), ("high", (1, 8, 2, 3))):
        np.savez(tmp_path / f"{name}.npz", images=np.zeros(shape, np.uint8))
    wide, high = (open_dataset(str(tmp_path / f"{name}.npz")).sample_digests() for name in ("wide", "high"))
    assert wide != high


def test_digest_depends_on_settings_names_and_bytes(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "d", noise(2), ["a.png", "b.png"])
    plain = open_dataset(recipe(tmp_path / "plain.toml", source="d")).digest
    assert plain == open_dataset(str(folder)).digest
    digests = {plain, open_dataset(recipe(tmp_path / "mean.toml", source="d", mean=[0.5] * 3)).digest}
    digests.add(open_dataset(recipe(tmp_path / "split.toml", source="d", split="0:1")).digest)
    (folder / "a.png").rename(folder / "c.png")
    digests.add(open_dataset(str(folder)).digest)
    (folder / "b.png").write_bytes(encoded(noise(3)[2]))
    digests.add(open_dataset(str(folder)).digest)
    assert len(digests) == 5


def test_digest_decodes_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    assert len(open_dataset(str(tmp_path)).digest) == 64


def test_what_fits_is_decoded_once(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "d", noise(3), ["0.png", "1.png", "2.png"])
    dataset = open_dataset(str(folder))
    digests = dataset.sample_digests()
    for file in folder.iterdir():
        file.unlink()
    (batch,) = dataset.subset([2, 0]).batches(4, order=[0, 1, 0])
    np.testing.assert_array_equal(np.rint(batch.inputs[0] * 255), noise(3)[[2, 0, 2]].transpose(0, 3, 1, 2))
    assert dataset.sample_digests() == digests


def test_what_does_not_fit_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = picture_folder(tmp_path / "d", noise(3), ["0.png", "1.png", "2.png"])
    monkeypatch.setattr(sources, "CACHE_BYTES", 2 * 6 * 8 * 3)  # room for two of the three pictures
    dataset = open_dataset(str(folder))
    part = dataset.subset([0, 1])
    assert [len(batch) for batch in part.batches(1)] == [1, 1]
    (folder / "0.png").unlink()
    (folder / "2.png").unlink()
    assert [len(batch) for batch in part.batches(2)] == [2]  # kept
    with pytest.raises(ConfigError, match=r"cannot read picture '2\.png': No such file"):
        list(dataset.batches(3))


def test_pictures_of_other_size_are_named(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "d", noise(1), ["a.png"])
    (folder / "b.png").write_bytes(encoded(noise(1, 4, 9)[0]))
    expected = r"^picture 'b\.png' is 9x4 pixels, picture 'a\.png' is 8x6; set resize and crop in a recipe$"
    with pytest.raises(ConfigError, match=expected):
        list(open_dataset(str(folder)).batches(2))
    assert open_dataset(recipe(tmp_path / "r.toml", source="d", resize=4, crop=4)).shapes == ((3, 4, 4),)


def test_a_picture_smaller_than_the_crop_is_named(tmp_path: Path) -> None:
    picture_folder(tmp_path / "d", noise(1), ["a.png"])
    with pytest.raises(ConfigError, match=r"^picture 'a\.png' is 8x6 pixels, smaller than crop = 7; set resize"):
        list(open_dataset(recipe(tmp_path / "r.toml", source="d", crop=7)).batches(1))


@pytest.mark.parametrize("suffix", ["png", "jpeg"])
def test_a_truncated_picture_among_good_ones_is_named(tmp_path: Path, suffix: str) -> None:
    files = [encoded(picture, suffix) for picture in noise(5, 32, 32)]
    files[3] = files[3][: len(files[3]) * 2 // 3]
    for number, file in enumerate(files):
        (tmp_path / f"{number}.{suffix}").write_bytes(file)
    with pytest.raises(ConfigError, match=rf"^picture '3\.{suffix}' is damaged: .*truncated"):
        list(open_dataset(str(tmp_path)).batches(2))
    with pytest.raises(ConfigError, match=r"^picture 3 of d\.npz is damaged: .*truncated"):
        open_dataset(packed(tmp_path / "d.npz", files)).sample_digests()


def test_a_file_that_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"hello")
    with pytest.raises(ConfigError, match=r"^picture 'a\.png' is no picture that Pillow can read \(5 bytes\)$"):
        _ = open_dataset(str(tmp_path)).shapes


def test_sixteen_bit_pictures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(np.full((4, 4), 40000, np.uint16)))
    with pytest.raises(ConfigError, match=r"picture 'a\.png' has pixels of mode I;16, needs 8 bits"):
        _ = open_dataset(str(tmp_path)).shapes


def test_palette_and_transparency_become_rgb() -> None:
    red = np.zeros((2, 2, 4), np.uint8)
    red[..., 0], red[..., 3] = 200, 9
    for image in (Image.fromarray(red), Image.fromarray(red[..., :3]).convert("P", palette=Image.Palette.ADAPTIVE)):
        stream = io.BytesIO()
        image.save(stream, "PNG")
        np.testing.assert_array_equal(decode_picture(stream.getvalue(), "it"), red[..., :3])


@given(data=st.data(), suffix=st.sampled_from(["png", "jpeg", "gif", "webp"]))
@settings(max_examples=300, deadline=None)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's remarks about broken metadata
def test_damaged_files_decode_or_raise_config_error(data: st.DataObject, suffix: str) -> None:
    content = bytearray(encoded(noise(1, 16, 16)[0], suffix))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(content[: data.draw(st.integers(0, len(content)))])
    message, shape = "it ", (0, 0, 3)
    try:
        shape = decode_picture(cut, "it").shape
    except ConfigError as error:
        message = str(error)
    assert (len(shape), shape[2], message[:3]) == (3, 3, "it ")
    assert "\n" not in message
