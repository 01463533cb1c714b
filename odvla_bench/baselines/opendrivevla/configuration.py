"""What an OpenDriveVLA is made of: sizes, token ids, and the form of its prompts."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from transformers import Qwen2Config

from odvla_bench.registry import suggest

SCENE, TRACK, MAP, OBJECT = "<SCENE>", "<TRACK>", "<MAP>", "<OBJECT>"
PLACEHOLDER_IDS: Mapping[str, int] = MappingProxyType(
    {SCENE: -201, TRACK: -202, MAP: -203, OBJECT: -204}
)
"""Placeholders in text → ids of the visual slots; they are in no vocabulary."""

IGNORE_ID = -100
"""Label of a position that is not learnt."""

ADDED_TOKENS = (
    "<trajectory>",
    *("<track_start>", "<track_end>", "<traj_start>", "<traj_end>"),
    *("<scene_start>", "<scene_end>", "<map_start>", "<map_end>"),
    *("<ego_start>", "<ego_end>", "<command_start>", "<command_end>"),
    *("<question_start>", "<question_end>", "<answer_start>", "<answer_end>"),
)
"""The 17 tokens of the released checkpoint, in the order of their ids."""

BASE_VOCABULARY = 151_665
"""Tokens of the Qwen2.5 tokenizer; the first added token has this id."""

SCENE_TOKENS = 90
"""Six cameras of 3 x 5 pooled cells."""


class OpenDriveVLAConfig(Qwen2Config):  # type: ignore[misc]
    """A Qwen2 configuration with visual slots, and how the model's prompts are written."""

    model_type = "opendrivevla"

    visual_size: int = 256
    """Width of a perception token."""
    prompt_profile: str = "default"
    """Prompt profile the model was trained with."""
    prompt_inputs: list[str] | None = None
    """What the prompts show: of visual, ego, history, command; None is all."""
    waypoint_codec: str = "text"
    """How waypoints are written in answers."""
    perception: dict[str, Any] | None = None
    """What of `perception.config` the model sees with; None where tokens come from elsewhere."""


_QWEN25 = {
    "vocab_size": BASE_VOCABULARY + len(ADDED_TOKENS),
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    "bos_token_id": 151_643,
    "pad_token_id": 151_643,
    "eos_token_id": 151_645,
}


def _size(hidden: int, intermediate: int, layers: int, heads: int, kv: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
    }


PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "0.5B": {**_QWEN25, **_size(896, 4864, 24, 14, 2), "tie_word_embeddings": True},
        "3B": {**_QWEN25, **_size(2048, 11_008, 36, 16, 2), "tie_word_embeddings": True},
        "7B": {**_QWEN25, **_size(3584, 18_944, 28, 28, 4), "tie_word_embeddings": False},
    }
)
"""Qwen2.5-Instruct sizes, with the rows of the 17 added tokens."""


def preset_config(name: str, **changes: Any) -> OpenDriveVLAConfig:
    """The configuration of a preset: `0.5B`, `3B` or `7B`.

    Args:
        name: the preset.
        changes: fields to set otherwise.

    Raises:
        UnknownNameError: no such preset.
    """
    if name not in PRESETS:
        raise suggest(name, list(PRESETS), kind="model preset")
    return OpenDriveVLAConfig(**{**PRESETS[name], **changes})
