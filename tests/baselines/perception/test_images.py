from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from perception_goldens import Load

from odvla_bench.baselines.opendrivevla.perception.images import (
    ImageError,
    normalise,
    read_image,
    read_images,
)


@pytest.fixture
def jpeg(tmp_path: Path) -> Path:
    path = tmp_path / "image.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    cv2.imwrite(str(path), noise)
    return path


@pytest.mark.golden
def test_normalised_images_equal_the_original(load: Load) -> None:
    inputs = load("backbone/inputs")
    ours = normalise(inputs["image_u8_bgr"].movedim(1, -1))
    assert torch.equal(ours, inputs["image_normalized"])


def test_padding_is_zero_and_right_and_below() -> None:
    out = normalise(torch.full((2, 900, 1600, 3), 200, dtype=torch.uint8))
    assert out.shape == (2, 3, 928, 1600)
    assert out[:, :, 900:].eq(0).all()
    assert out[0, :, 899, 1599].tolist() == pytest.approx([96.47, 83.72, 76.325])


@pytest.mark.real
def test_real_images_are_read_as_bgr(real_data: Path) -> None:
    paths = sorted((real_data / "nuscenes-one-keyframe/samples").glob("CAM_*/*.jpg"))
    with ThreadPoolExecutor(2) as executor:
        images = read_images(paths, executor)
    assert images.shape == (6, 900, 1600, 3)
    assert np.array_equal(images, read_images(paths))
    sky = images[0, :100].reshape(-1, 3).mean(0)
    assert sky[0] > sky[2]


def test_what_cannot_be_read_is_named(jpeg: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"No camera image at .*absent\.jpg.*--skip-bad"):
        read_image(tmp_path / "absent.jpg")
    for name, content in (
        ("cut.jpg", jpeg.read_bytes()[:-200]),
        ("empty.jpg", b""),
        ("text.jpg", b"not an image at all"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=rf"{name} is corrupt \({len(content)} bytes\)"):
            read_image(tmp_path / name)


def test_sizes_must_agree(jpeg: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    cv2.imwrite(str(other), np.zeros((32, 96, 3), np.uint8))
    with pytest.raises(ImageError, match=r"other\.png has 96 × 32 pixels, .* has 96 × 64"):
        read_images([jpeg, other])
