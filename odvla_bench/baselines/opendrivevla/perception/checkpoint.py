"""Weights in and out: the official files and ours, with a report of every key."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from odvla_bench.baselines.opendrivevla.perception.config import PerceptionConfig, perception_config
from odvla_bench.baselines.opendrivevla.perception.network import Perception
from odvla_bench.errors import InputError
from odvla_bench.provenance import digest_file, digest_text

HF_PREFIX = "model.vision_tower.vision_tower.vision_model."
OWN_PREFIX = "model.perception."
PREFIXES = (HF_PREFIX, OWN_PREFIX, "module.")
_SHARD_INDEX = "model.safetensors.index.json"
_WHOLE = "model.safetensors"
_MAP_OFFSETS = "seg_head.transformer.encoder.layers.0.attentions.0.sampling_offsets.weight"
_MAP_OFFSETS_A_LEVEL = 64

UNUSED = (
    "*.code_weights",
    "seg_head.bev_embedding.weight",
    "seg_head.reg_branches2.*",
    "seg_head.cls_thing_branches.*",
    "seg_head.cls_stuff_branches.*",
    "seg_head.*_mask_head.blocks.*.attn.linear_l1.*",
    "seg_head.*_mask_head.blocks.*.attn.linear.*",
)
"""Keys of the official files that inference never reads."""


@dataclass(frozen=True)
class LoadReport:
    """What became of every key of a checkpoint."""

    path: Path
    fingerprint: str
    """Of the files' bytes."""
    config: PerceptionConfig
    """With what was read off the weights' shapes."""
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    """Of the network, not in the file: these keep random values."""
    unexpected: tuple[str, ...]
    """In the file under the perception's prefix, unknown to the network."""
    unused: tuple[str, ...]
    """In the file, known, and never read at inference."""
    other: tuple[str, ...]
    """Of other parts of a whole model, such as its language model."""

    def __str__(self) -> str:
        """One line for people."""
        names = ("loaded", "missing", "unexpected", "unused", "other")
        counts = ", ".join(f"{len(getattr(self, name))} {name}" for name in names)
        return f"{self.path}: {counts} keys"


def load_checkpoint(
    path: Path, config: PerceptionConfig | None = None, *, allow_missing: bool = False
) -> tuple[Perception, LoadReport]:
    """A network with the weights of a file or folder, in evaluation mode, float32, on the CPU.

    Args:
        path: an mmdet-style `.pth`, a `.safetensors` file, or a folder with safetensors, either
            with the perception's own names or with those of a whole OpenDriveVLA.
        config: sizes and behaviour; `uniad-base` as released without it. The levels of the map
            attention are always read off the weights.
        allow_missing: accept weights that do not cover the network.

    Raises:
        InputError: the file cannot be read safely, a shape is wrong, or weights are missing.
    """
    files = _weight_files(path)
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= _read(file)
    own, other = _own_names(tensors)
    config = _with_map_levels(config or perception_config("uniad-base"), own)
    with torch.device("meta"):
        network = Perception(config)
    wanted = network.state_dict()
    missing = [k for k in wanted if k not in own and not k.endswith("num_batches_tracked")]
    if missing and not allow_missing:
        raise InputError(
            f"{path} lacks {len(missing)} of the perception's {len(wanted)} weights, among them "
            f"{_few(missing)}. Give a whole track-and-map checkpoint."
        )
    _check_shapes(path, own, wanted)
    if missing:
        network = Perception(config)
    else:
        network.to_empty(device="cpu")
        _reset_counters(network)
    loaded = {k: v.to(wanted[k].dtype) for k, v in own.items() if k in wanted}
    network.load_state_dict(loaded, strict=False)
    rest = [k for k in own if k not in wanted]
    unused = [k for k in rest if any(fnmatch.fnmatchcase(k, p) for p in UNUSED)]
    report = LoadReport(
        path=path,
        fingerprint=digest_text(*(digest_file(f) for f in files)),
        config=config,
        loaded=tuple(loaded),
        missing=tuple(missing),
        unexpected=tuple(k for k in rest if k not in set(unused)),
        unused=tuple(unused),
        other=tuple(other),
    )
    return network.eval(), report


def save_checkpoint(network: Perception, path: Path) -> None:
    """Write a network's weights as safetensors under the official names."""
    tensors = {k: v.contiguous() for k, v in network.state_dict().items()}
    save_file(tensors, path, metadata={"format": "pt", "preset": network.config.name})


def _weight_files(path: Path) -> list[Path]:
    if path.is_dir():
        index = path / _SHARD_INDEX
        if index.is_file():
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            files = [path / Path(name).name for name in names]
        elif (path / _WHOLE).is_file():
            files = [path / _WHOLE]
        else:
            files = sorted(path.glob("*.safetensors"))
    else:
        files = [path]
    missing = [f for f in files if not f.is_file()]
    if missing or not files:
        raise InputError(
            f"No checkpoint at {missing[0] if missing else path / '*.safetensors'}. Give a .pth or "
            ".safetensors file, or a folder of safetensors files."
        )
    return files


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise InputError(
                f"{path} is no safetensors file ({error}). Download it again."
            ) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the reader stumble in any way
        raise InputError(
            f"{path} cannot be read as plain weights ({_first_line(error)}). Nothing in it "
            "was run. Check the download; a file that holds other objects must be re-saved as a "
            "state dict where it is trusted."
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path} holds no state dict: expected names and tensors.")
    return dict(state)


def _own_names(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The perception's tensors under its own names, and the names of the others."""
    for prefix in PREFIXES:
        if any(k.startswith(prefix) for k in tensors):
            own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            return own, [k for k in tensors if not k.startswith(prefix)]
    return dict(tensors), []


def _with_map_levels(config: PerceptionConfig, own: Mapping[str, Tensor]) -> PerceptionConfig:
    if _MAP_OFFSETS not in own:
        return config
    levels = max(1, len(own[_MAP_OFFSETS]) // _MAP_OFFSETS_A_LEVEL)
    return replace(config, map_attention_levels=levels)


def _check_shapes(path: Path, own: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    wrong = [
        f"{k} is {tuple(own[k].shape)}, not {tuple(v.shape)}"
        for k, v in wanted.items()
        if k in own and own[k].shape != v.shape
    ]
    if wrong:
        raise InputError(
            f"{path} does not fit the configuration: {_few(wrong)}. Choose the preset that the "
            "weights were made with."
        )


def _reset_counters(network: Perception) -> None:
    """Batch normalisation's counters, which files may lack and nothing reads."""
    for name, buffer in network.named_buffers():
        if name.endswith("num_batches_tracked"):
            buffer.zero_()


def _few(names: Iterable[str]) -> str:
    names = list(names)
    rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + rest


def _first_line(error: Exception) -> str:
    return (str(error) or "the file ends too early").splitlines()[0]
