"""Visual tokens on disk: one safetensors file a scene, read by keyframe. No torch here.

`FEATURES/{scene}.safetensors` holds for every keyframe the arrays of `KeyframeFeatures` under
`{sample}/{name}`; its metadata hold the settings they were made with, the keyframes and a
fingerprint of all bytes. `FEATURES/skipped.jsonl` names the keyframes left out and why.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from odvla_bench.errors import FormatError, InputError, MissingDependencyError
from odvla_bench.provenance import digest_text

FORMAT = "odvla-features-1"
LEDGER = "skipped.jsonl"
_SUFFIX = ".safetensors"


@dataclass(frozen=True, eq=False)
class KeyframeFeatures:
    """The visual tokens of one keyframe, and what its agents are, best first."""

    scene: npt.NDArray[np.float32]
    """(90, 256) camera after camera, row-major in each."""
    agents: npt.NDArray[np.float32]
    """(n, 256)."""
    map: npt.NDArray[np.float32]
    """(m, 256) countable elements, then the drivable area."""
    instance_id: npt.NDArray[np.int64]
    """(n) the build's number of each agent's track; -1 where no annotated box matches."""
    track_id: npt.NDArray[np.int64]
    """(n) the perception's own number, unique within the scene."""
    boxes: npt.NDArray[np.float32]
    """(n, 9) x, y, z of the centre, length, width, height, heading, velocity x, y; LIDAR frame,
    metres, radians counter-clockwise from +x, m/s."""
    scores: npt.NDArray[np.float32]
    """(n) 0…1."""
    labels: npt.NDArray[np.int64]
    """(n) index into `perception.config.CLASSES`."""


_NAMES = tuple(f.name for f in fields(KeyframeFeatures))


@dataclass(frozen=True)
class FeatureSettings:
    """Every choice that can move a token; part of the signature of results made with them."""

    source: str
    """"perception" or "annotations"."""
    privileged: bool
    """Whether the tokens were made from annotations, which no model may see when it is tested."""
    choices: Mapping[str, str]
    """Preset, behaviour, precision, checkpoint fingerprint and the like."""

    @property
    def signature(self) -> str:
        """One line, as results carry it."""
        words = [f"tokens:{self.source}", *(f"{k}:{v}" for k, v in sorted(self.choices.items()))]
        return "|".join([*words, "privileged"] if self.privileged else words)


def write_scene(
    folder: Path, scene: str, settings: FeatureSettings, keyframes: Mapping[str, KeyframeFeatures]
) -> Path:
    """Write the file of a scene, whole or not at all."""
    save = _safetensors("numpy").save_file
    tensors = {
        f"{sample}/{name}": np.ascontiguousarray(getattr(features, name))
        for sample, features in keyframes.items()
        for name in _NAMES
    }
    metadata = {
        "format": FORMAT,
        "scene": scene,
        "signature": settings.signature,
        "settings": json.dumps(
            {
                "source": settings.source,
                "privileged": settings.privileged,
                "choices": dict(settings.choices),
            }
        ),
        "samples": json.dumps(list(keyframes)),
        "fingerprint": _fingerprint(tensors),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{scene}{_SUFFIX}"
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    save(tensors, unfinished, metadata=metadata)
    unfinished.replace(path)
    return path


def is_finished(folder: Path, scene: str, settings: FeatureSettings) -> bool:
    """Whether a scene's file lies there, made with these settings.

    Raises:
        FormatError: it was made with others.
    """
    path = folder / f"{scene}{_SUFFIX}"
    if not path.is_file():
        return False
    found = _metadata(path)["signature"]
    if found != settings.signature:
        raise FormatError(
            f"{path} was made with other settings:\n  {found}\n  now: {settings.signature}\n"
            "Choose another --out, or delete the folder."
        )
    return True


def note_skipped(folder: Path, scene: str, sample: str, reason: str) -> None:
    """Add a keyframe to the ledger of those left out."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LEDGER).open("a") as f:
        f.write(json.dumps({"scene": scene, "sample": sample, "reason": reason}) + "\n")


class FeatureStore(Mapping[str, KeyframeFeatures]):
    """The features of a folder by sample token; files stay open and are mapped into memory."""

    def __init__(self, folder: Path) -> None:
        """Read the heads of all files.

        Raises:
            InputError: the folder holds no features.
            FormatError: a file of another format, or files of differing settings.
        """
        self.folder = folder
        self._files: dict[Path, Any] = {}
        self._path_of: dict[str, Path] = {}
        self._fingerprints: dict[Path, str] = {}
        paths = sorted(folder.glob(f"*{_SUFFIX}"))
        if not paths:
            raise InputError(
                f"{folder} holds no features. Make them with `odvla-bench extract-features`."
            )
        heads = [_metadata(path) for path in paths]
        for path, head in zip(paths, heads, strict=True):
            if head["signature"] != heads[0]["signature"]:
                raise FormatError(
                    f"{path} was made with other settings than {paths[0]}:\n  {head['signature']}\n"
                    f"  {heads[0]['signature']}\nKeep features of one kind in a folder."
                )
            self._fingerprints[path] = head["fingerprint"]
            self._path_of.update(dict.fromkeys(json.loads(head["samples"]), path))
        self.settings = FeatureSettings(**json.loads(heads[0]["settings"]))

    @property
    def signature(self) -> str:
        """What the tokens were made from and how."""
        return self.settings.signature

    @property
    def fingerprint(self) -> str:
        """Digest of settings and all contents."""
        return digest_text(self.settings.signature, *self._fingerprints.values())

    def __len__(self) -> int:
        return len(self._path_of)

    def __iter__(self) -> Iterator[str]:
        return iter(self._path_of)

    def __contains__(self, sample_token: object) -> bool:
        return sample_token in self._path_of

    def __getitem__(self, sample_token: str) -> KeyframeFeatures:
        """The features of a keyframe.

        Raises:
            InputError: there are none; says why if the ledger knows.
        """
        path = self._path_of.get(sample_token)
        if path is None:
            raise InputError(self._absence(sample_token))
        get = self._open(path).get_tensor
        return KeyframeFeatures(*(get(f"{sample_token}/{name}") for name in _NAMES))

    def verify(self) -> None:
        """Compare every file's contents with its fingerprint.

        Raises:
            FormatError: one differs.
        """
        for path, expected in self._fingerprints.items():
            file = self._open(path)
            found = _fingerprint({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
            if found != expected:
                raise FormatError(f"{path} is damaged: delete it and extract its scene again.")

    def _open(self, path: Path) -> Any:
        if path not in self._files:
            self._files[path] = _safetensors("").safe_open(path, framework="numpy")
        return self._files[path]

    def _absence(self, sample: str) -> str:
        ledger = self.folder / LEDGER
        rows = ledger.read_text().splitlines() if ledger.is_file() else []
        reasons = [r["reason"] for r in map(json.loads, rows) if r["sample"] == sample]
        why = f"It was skipped: {reasons[-1]}" if reasons else "Extract features for its scene."
        return f"{self.folder} has no features for keyframe {sample} (it has {len(self)}). {why}"


def _metadata(path: Path) -> dict[str, str]:
    safetensors = _safetensors("")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise FormatError(f"{path} is no features file ({error}). Delete it.") from error
    if metadata.get("format") != FORMAT:
        raise FormatError(
            f"{path} has format {metadata.get('format')!r}, not {FORMAT!r}. Extract it again."
        )
    return dict(metadata)


def _fingerprint(tensors: Mapping[str, npt.NDArray[Any]]) -> str:
    h = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        array = tensors[name]
        h.update(f"{name}{array.dtype.str}{array.shape}".encode())
        h.update(np.ascontiguousarray(array).tobytes())
    return h.hexdigest()


def _safetensors(submodule: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"safetensors.{submodule}".rstrip("."))
    except ImportError as error:
        raise MissingDependencyError("safetensors", extra="train", purpose="features") from error
