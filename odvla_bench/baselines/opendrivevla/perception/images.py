"""Camera images as the network takes them: BGR, mean-subtracted, padded, never resized."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from odvla_bench.baselines.opendrivevla.perception.deformable import constant
from odvla_bench.errors import InputError

MEAN_BGR = (103.530, 116.280, 123.675)
DIVISOR = 32


class ImageError(InputError):
    """A camera image that is missing, corrupt or of another size than its neighbours."""


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """One image, (rows, columns, 3) BGR.

    Raises:
        ImageError: the file is missing or is no complete image.
    """
    try:
        raw = np.fromfile(path, np.uint8)
    except OSError as error:
        raise ImageError(
            f"No camera image at {path}: {error.strerror}. Check --nuscenes-root; "
            "extract-features can go on without the keyframe (--skip-bad)."
        ) from error
    image = cv2.imdecode(raw, cv2.IMREAD_COLOR) if len(raw) and _complete(raw) else None
    if image is None:
        raise ImageError(
            f"The camera image {path} is corrupt ({len(raw)} bytes). Download it again; "
            "extract-features can go on without the keyframe (--skip-bad)."
        )
    return image.astype(np.uint8, copy=False)


def read_images(paths: Sequence[Path], executor: Executor | None = None) -> npt.NDArray[np.uint8]:
    """Images of equal size, (N, rows, columns, 3) BGR; decoded in parallel by an `executor`.

    Raises:
        ImageError: one is missing or corrupt, or sizes differ.
    """
    images = list((executor.map if executor else map)(read_image, paths))
    for path, image in zip(paths, images, strict=True):
        if image.shape != images[0].shape:
            raise ImageError(
                f"The camera image {path} has {image.shape[1]} × {image.shape[0]} pixels, "
                f"{paths[0]} has {images[0].shape[1]} × {images[0].shape[0]}; the six images of a "
                "keyframe must be of one size."
            )
    return np.stack(images)


def normalise(images: Tensor) -> Tensor:
    """(…, rows, columns, 3) uint8 BGR → (…, 3, rows', columns') float32, zero-padded to 32s."""
    mean = constant(MEAN_BGR, images.device, torch.float32)
    centred = (images.float() - mean).movedim(-1, -3)
    rows, columns = centred.shape[-2:]
    return F.pad(centred, (0, -columns % DIVISOR, 0, -rows % DIVISOR))


def _complete(raw: npt.NDArray[np.uint8]) -> bool:
    """Whether a JPEG has its end marker: OpenCV silently fills a cut one with grey."""
    if raw[:2].tobytes() != b"\xff\xd8":
        return True
    return b"\xff\xd9" in raw[-64:].tobytes()
