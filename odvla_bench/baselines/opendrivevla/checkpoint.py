"""Models on disk: our directories, the released layout and back, a language model to start from.

The released checkpoint has our names but for the perception, which lies deeper. Only safetensors
files are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, GenerationConfig, Qwen2ForCausalLM

from odvla_bench.baselines.opendrivevla.configuration import ADDED_TOKENS, OpenDriveVLAConfig
from odvla_bench.baselines.opendrivevla.modeling import OpenDriveVLAForConditionalGeneration
from odvla_bench.baselines.opendrivevla.ordered_tokens import axes, wave_rows
from odvla_bench.baselines.opendrivevla.perception.checkpoint import HF_PREFIX, OWN_PREFIX
from odvla_bench.baselines.opendrivevla.processing import OpenDriveVLAProcessor, with_added_tokens
from odvla_bench.datasets.waypoints import WaypointCodec
from odvla_bench.errors import InputError

MODEL, CHECKPOINTS = "model", "checkpoints"
"""Folders of a training run: its finished model, and models on the way."""
PERCEPTION = OWN_PREFIX
RELEASED_TYPE = "llava_qwen"
_UNUSED = ("model.image_newline",)
_TIED = "lm_head.weight"
_EMBEDDINGS = "model.embed_tokens.weight"

StateDict = Mapping[str, Tensor]


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to train or to predict."""

    model: OpenDriveVLAForConditionalGeneration
    processor: OpenDriveVLAProcessor


def from_released(state: StateDict) -> dict[str, Tensor]:
    """Tensors of the released layout under our names."""
    return _moved(state, HF_PREFIX, PERCEPTION)


def to_released(state: StateDict) -> dict[str, Tensor]:
    """Our tensors under the names of the released layout."""
    return _moved(state, PERCEPTION, HF_PREFIX)


def open_model(name: str, *, dtype: torch.dtype = torch.float32) -> Loaded:
    """Load a model directory or a model of the Hugging Face hub, whatever its layout.

    Args:
        name: one of our directories or the folder of a finished run, one in the layout of the
            released checkpoint, or a Qwen2 language model, which gets the added tokens and new
            projectors.
        dtype: of the weights.

    Raises:
        InputError: no such model, or one of another kind.
    """
    folder = resolve(name)
    kind = _read_json(folder / "config.json").get("model_type")
    loaders = {
        OpenDriveVLAConfig.model_type: _open_ours,
        RELEASED_TYPE: _open_released,
        "qwen2": _open_language_model,
    }
    if kind not in loaders:
        raise InputError(
            f"{folder}: a model of type {kind!r}. An OpenDriveVLA ('opendrivevla', or "
            f"'{RELEASED_TYPE}' as released) or a Qwen2 language model ('qwen2') is expected."
        )
    return loaders[kind](folder, dtype)


def with_codec_tokens(loaded: Loaded, codec: WaypointCodec) -> None:
    """Give a model the tokens of a waypoint codec; where they are new, see `ordered_tokens`."""
    new = codec.tokens()
    tokenizer = with_added_tokens(loaded.processor.tokenizer, new)
    model = loaded.model
    if len(tokenizer) <= model.config.vocab_size:
        return
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    first = int(tokenizer.convert_tokens_to_ids(new[0]))
    for rows in {id(m): m for m in (model.model.embed_tokens, model.lm_head)}.values():
        with torch.no_grad():
            for start, count in axes(new):
                size = (count, rows.weight.shape[1], model.config.initializer_range)
                rows.weight[first + start : first + start + count] = wave_rows(*size)


def read_config(name: str) -> dict[str, Any]:
    """The configuration of a model directory or hub name, as its file has it."""
    return _read_json(resolve(name) / "config.json")


def save_model(loaded: Loaded, folder: Path, state: StateDict | None = None) -> None:
    """Write a model directory: configuration, weights as safetensors, processor.

    Args:
        loaded: the model.
        folder: where to; its files are replaced.
        state: the weights where the model does not hold them whole.
    """
    loaded.model.save_pretrained(folder, state_dict=dict(state) if state is not None else None)
    loaded.processor.save_pretrained(folder)


def save_released(loaded: Loaded, folder: Path) -> None:
    """Write a model in the layout of the released checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    model = loaded.model
    state = {k: v.contiguous() for k, v in to_released(model.state_dict()).items()}
    if model.config.tie_word_embeddings:
        del state[_TIED]
    _save_tensors(state, folder / "model.safetensors")
    config = model.config.to_dict() | {
        "model_type": RELEASED_TYPE,
        "architectures": ["LlavaQwenForCausalLM"],
        "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": model.config.visual_size,
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "mm_vision_tower": "uniad_track_map",
        "tokenizer_padding_side": "right",
        "tokenizer_model_max_length": loaded.processor.tokenizer.model_max_length,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    model.generation_config.save_pretrained(folder)
    loaded.processor.tokenizer.save_pretrained(folder)


def resolve(name: str) -> Path:
    """The folder of a model: itself, its run's, or the hub's, downloaded to the hub's cache.

    Args:
        name: a model directory, the folder of a finished training run, or a hub name.

    Raises:
        InputError: neither a folder nor a model that the hub gives, or a run that is not finished.
    """
    folder = Path(name)
    if (folder / MODEL).is_dir():
        return folder / MODEL
    if (folder / CHECKPOINTS).is_dir():
        raise InputError(
            f"{folder}: a training run that is not finished. Let it finish, or name one of its "
            f"{CHECKPOINTS}/step-…."
        )
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        wanted = ["*.json", "*.safetensors", "*.txt"]
        return Path(snapshot_download(name, allow_patterns=wanted))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"{name}: not a folder, and the hub gives no such model ({type(error).__name__}). "
            "Give the folder of a downloaded model."
        ) from error


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model folder, from one safetensors file or from the shards of its index.

    Raises:
        InputError: no safetensors, or a file that cannot be read.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(_read_json(index).get("weight_map", {}).values()))
    else:
        names = ["model.safetensors"]
    state: dict[str, Tensor] = {}
    for name in names:
        path = folder / Path(name).name
        if not path.is_file():
            raise InputError(f"{path}: no such file. A model folder holds safetensors weights.")
        try:
            state.update(load_file(path))
        except SafetensorError as error:
            raise InputError(f"{path}: not a safetensors file ({error}).") from error
    return state


def _open_ours(folder: Path, dtype: torch.dtype) -> Loaded:
    model = OpenDriveVLAForConditionalGeneration.from_pretrained(folder, dtype=dtype)
    return Loaded(model, OpenDriveVLAProcessor.from_pretrained(folder))


def _open_released(folder: Path, dtype: torch.dtype) -> Loaded:
    """The released layout: language model and projectors; its perception is loaded on its own."""
    raw = _read_json(folder / "config.json")
    if (kind := raw.get("mm_projector_type", "mlp2x_gelu")) != "mlp2x_gelu":
        raise InputError(f"{folder}: projectors of type {kind!r}; only 'mlp2x_gelu' is known.")
    state = {
        name: tensor
        for name, tensor in from_released(read_tensors(folder)).items()
        if not name.startswith(PERCEPTION) and name not in _UNUSED
    }
    if _EMBEDDINGS not in state:
        raise InputError(f"{folder}: no {_EMBEDDINGS}; not in the layout of the released model.")
    known = {k: v for k, v in raw.items() if not k.startswith("mm_") and k not in _NOT_OURS}
    config = OpenDriveVLAConfig(
        **known
        | {
            "vocab_size": len(state[_EMBEDDINGS]),
            "visual_size": raw.get("mm_hidden_size", 256),
            "prompt_profile": "released",
        }
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    _check_vocabulary(folder, tokenizer, config.vocab_size)
    processor = OpenDriveVLAProcessor(tokenizer, "released")
    model = _filled(folder, config, state, dtype)
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return Loaded(model, processor)


def _open_language_model(folder: Path, dtype: torch.dtype) -> Loaded:
    """A Qwen2 with the added tokens, as many embedding rows as tokens, and new projectors."""
    language = Qwen2ForCausalLM.from_pretrained(folder, dtype=dtype)
    tokenizer = with_added_tokens(AutoTokenizer.from_pretrained(folder))
    language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    known = {k: v for k, v in language.config.to_dict().items() if k not in _NOT_OURS}
    config = OpenDriveVLAConfig(**known)
    config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model = OpenDriveVLAForConditionalGeneration(config).to(dtype)
    missing, unexpected = model.load_state_dict(language.state_dict(), strict=False)
    if unexpected or any("mm_projector" not in name for name in missing):
        raise InputError(f"{folder}: its tensors are not those of a Qwen2 language model.")
    model.generation_config = GenerationConfig(
        eos_token_id=config.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return Loaded(model, OpenDriveVLAProcessor(tokenizer))


_NOT_OURS = frozenset(
    {"model_type", "architectures", "transformers_version", "dtype", "torch_dtype"}
)


def _filled(
    folder: Path, config: OpenDriveVLAConfig, state: dict[str, Tensor], dtype: torch.dtype
) -> OpenDriveVLAForConditionalGeneration:
    """A model with these weights, all of them and no others."""
    if config.tie_word_embeddings:
        state.setdefault(_TIED, state[_EMBEDDINGS])
    with torch.device("meta"):
        model = OpenDriveVLAForConditionalGeneration(config)
    ours = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in state.items()}
    wrong = sorted(k for k in ours.keys() | found.keys() if ours.get(k) != found.get(k))
    if wrong:
        first = ", ".join(f"{k}: {found.get(k)} for {ours.get(k)}" for k in wrong[:3])
        raise InputError(f"{folder}: {len(wrong)} tensors missing, unknown or misshapen ({first}).")
    model = OpenDriveVLAForConditionalGeneration(config).to(dtype)
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in state.items()})
    return model


def _check_vocabulary(folder: Path, tokenizer: Any, rows: int) -> None:
    first = tokenizer.convert_tokens_to_ids(ADDED_TOKENS[0])
    last = tokenizer.convert_tokens_to_ids(ADDED_TOKENS[-1])
    if first is None or last is None or last - first != len(ADDED_TOKENS) - 1 or last >= rows:
        raise InputError(
            f"{folder}: the tokenizer has {ADDED_TOKENS[0]} … {ADDED_TOKENS[-1]} at {first} … "
            f"{last}, and the embedding {rows} rows. The released tokenizer belongs to these "
            "weights; copy it into the folder."
        )


def _moved(state: StateDict, old: str, new: str) -> dict[str, Tensor]:
    return {new + k[len(old) :] if k.startswith(old) else k: v for k, v in state.items()}


def _save_tensors(state: dict[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    save_file(state, path, metadata={"format": "pt"})


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}).") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a JSON object.")
    return value
