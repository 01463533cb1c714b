"""The network: Qwen2 with three projectors that put perception tokens among its word embeddings.

Parameter names are those of the released checkpoint, so that its language model and projectors
load without renaming.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2ForCausalLM, Qwen2Model
from transformers.modeling_outputs import CausalLMOutputWithPast

from odvla_bench.baselines.opendrivevla.configuration import (
    IGNORE_ID,
    MAP,
    OBJECT,
    PLACEHOLDER_IDS,
    SCENE,
    TRACK,
    OpenDriveVLAConfig,
)

if TYPE_CHECKING:
    from odvla_bench.baselines.opendrivevla.perception.clip import Clip
    from odvla_bench.baselines.opendrivevla.perception.network import Perception

_SLOTS = tuple(
    (PLACEHOLDER_IDS[placeholder], features, projector)
    for placeholder, features, projector in (
        (SCENE, "scene_features", "mm_projector_scene"),
        (TRACK, "track_features", "mm_projector_track"),
        (MAP, "map_features", "mm_projector_map"),
        (OBJECT, "object_features", "mm_projector_track"),
    )
)


@dataclass
class VisualFeatures:
    """Perception tokens of a batch, in the order in which its sequences use them."""

    scene_features: Tensor | None = None
    """(scene slots, 256)"""
    track_features: Tensor | None = None
    """(agent slots, 256)"""
    map_features: Tensor | None = None
    """(map slots, 256)"""
    object_features: Tensor | None = None
    """(single-object slots, 256); they go through the agents' projector."""

    def counts(self) -> dict[int, int]:
        """Slot → tokens that there are for it."""
        parts = ((slot, getattr(self, field)) for slot, field, _ in _SLOTS)
        return {slot: len(features) for slot, features in parts if features is not None}


def mlp_projector(visual_size: int, hidden_size: int) -> nn.Sequential:
    """Two linear layers with a GELU between them (paper, section 4.3)."""
    return nn.Sequential(
        nn.Linear(visual_size, hidden_size), nn.GELU(), nn.Linear(hidden_size, hidden_size)
    )


def spread_slots(input_ids: Tensor, counts: Mapping[int, int]) -> tuple[Tensor, Tensor]:
    """Repeat each visual slot for as many tokens as it stands for; no token, no slot.

    Args:
        input_ids: (1, L) ids with one slot for all tokens of a kind.
        counts: slot → number of tokens.

    Returns:
        (1, L') ids, and (L,) the last place of each old position, or, where it has none, the place
        before, from which what follows it is told.
    """
    repeats = torch.ones_like(input_ids[0])
    for slot, count in counts.items():
        repeats[input_ids[0] == slot] = count
    return input_ids.repeat_interleave(repeats, dim=1), repeats.cumsum(0) - 1


class OpenDriveVLAModel(Qwen2Model):  # type: ignore[misc]
    """Qwen2's layers, the three projectors and, where it is attached, the perception."""

    config_class = OpenDriveVLAConfig
    _keep_in_fp32_modules_strict = ("perception",)

    def __init__(self, config: OpenDriveVLAConfig) -> None:
        """Build the modules; weights are random until loaded."""
        super().__init__(config)
        for name in ("scene", "track", "map"):
            projector = mlp_projector(config.visual_size, config.hidden_size)
            self.add_module(f"mm_projector_{name}", projector)
        self.perception = _perception(config.perception) if config.perception else None
        self.post_init()

    def see(self, clip: Clip) -> VisualFeatures:
        """Tokens of a clip's last keyframe, which gradients flow through.

        Raises:
            ValueError: the model has no perception.
        """
        from odvla_bench.baselines.opendrivevla.perception.clip import forward_clip

        if self.perception is None:
            raise ValueError("the model has no perception to see a clip with")
        gradients = clip.encoder_gradients
        tokens = forward_clip(
            self.perception, clip.frames, clip.annotations, encoder_gradients=gradients
        )
        return VisualFeatures(tokens.scene, tokens.agents, tokens.map)

    def splice(self, input_ids: Tensor, visual: VisualFeatures) -> Tensor:
        """Embed ids, with projected perception tokens in the visual slots.

        Args:
            input_ids: (B, L) token ids; a slot holds its placeholder's id, once for each token.
            visual: the tokens, all sequences' one after another.

        Returns:
            (B, L, H) embeddings.

        Raises:
            ValueError: not as many tokens as slots.
        """
        embeds = self.embed_tokens(input_ids.clamp(min=0))
        for slot, field, projector in _SLOTS:
            features = getattr(visual, field)
            where = input_ids == slot
            found, count = 0 if features is None else len(features), int(where.sum())
            if found != count:
                raise ValueError(f"{field} holds {found} tokens for {count} slots")
            # A projector without tokens is still run, so that each process has every gradient.
            if features is None:
                features = embeds.new_zeros(0, self.config.visual_size)
            projected = getattr(self, projector)(features.to(embeds.dtype))
            embeds = embeds.masked_scatter(where[..., None], projected.to(embeds.dtype))
        return embeds


class OpenDriveVLAForConditionalGeneration(Qwen2ForCausalLM):  # type: ignore[misc]
    """OpenDriveVLA: perception tokens and text in, text out.

    `forward` and `generate` take `input_ids` with visual slots, made by `OpenDriveVLAProcessor`,
    and the tokens for them as `scene_features`, `track_features`, `map_features` and
    `object_features`, each (slots, 256). In training, `forward` takes a `clip` in their place.
    """

    config_class = OpenDriveVLAConfig

    def __init__(self, config: OpenDriveVLAConfig) -> None:
        """Build the modules; weights are random until loaded."""
        super(Qwen2ForCausalLM, self).__init__(config)
        self.model = OpenDriveVLAModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As transformers has it, with every tensor in memory of its own.

        Where a tensor lies in a file decides which kernels take it, and so the last bit of a sum:
        copied, a model gives what it gave before it was saved, and a run that goes on from a
        checkpoint ends where an uninterrupted one does.
        """
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()
        return loaded

    def forward(
        self,
        input_ids: Tensor | None = None,
        *,
        clip: Clip | None = None,
        scene_features: Tensor | None = None,
        track_features: Tensor | None = None,
        map_features: Tensor | None = None,
        object_features: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Qwen2's forward on spliced embeddings.

        Args:
            input_ids: (B, L) ids, with negative ids in visual slots.
            clip: what the model's own perception makes the tokens of; `input_ids` is (1, L) then,
                with one slot a kind, and `logits_to_keep` are places in it.
            scene_features: (scene slots, 256).
            track_features: (agent slots, 256).
            map_features: (map slots, 256).
            object_features: (object slots, 256).
            inputs_embeds: (B, L, H) in place of ids.
            labels: (B, L) ids to predict, -100 where nothing is learnt; shifted inside.
            kwargs: as `Qwen2ForCausalLM.forward`.
        """
        visual = VisualFeatures(scene_features, track_features, map_features, object_features)
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("give input_ids or inputs_embeds")
            if clip is not None:
                visual = self.model.see(clip)
                input_ids, last = spread_slots(input_ids, visual.counts())
                kwargs["logits_to_keep"] = last[kwargs["logits_to_keep"]]
            inputs_embeds = self.model.splice(input_ids, visual)
        if labels is not None:
            labels = labels.masked_fill(labels < 0, IGNORE_ID)
        return super().forward(inputs_embeds=inputs_embeds, labels=labels, **kwargs)

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor | None = None,
        *,
        scene_features: Tensor | None = None,
        track_features: Tensor | None = None,
        map_features: Tensor | None = None,
        object_features: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Generate; returns the new tokens only, as the released model does.

        A repetition penalty therefore acts on the answer alone. Arguments as in `forward` and
        `GenerationMixin.generate`.
        """
        if input_ids is not None:
            kwargs["inputs_embeds"] = self.model.splice(
                input_ids,
                VisualFeatures(scene_features, track_features, map_features, object_features),
            )
        return super().generate(**kwargs)


def _perception(settings: Mapping[str, Any]) -> Perception:
    """A perception of these settings, whose initial weights are its own and not Qwen2's."""
    from odvla_bench.baselines.opendrivevla.perception.config import from_settings
    from odvla_bench.baselines.opendrivevla.perception.network import Perception

    network = Perception(from_settings(settings))
    for module in network.modules():
        module._is_hf_initialized = True  # type: ignore[assignment]
    return network


AutoConfig.register(OpenDriveVLAConfig.model_type, OpenDriveVLAConfig)
AutoModelForCausalLM.register(OpenDriveVLAConfig, OpenDriveVLAForConditionalGeneration)
