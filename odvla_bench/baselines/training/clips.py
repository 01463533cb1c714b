"""Images as training data of stage 3: conversations with the clips that their keyframes end.

Clips have five keyframes, as in the paper, and fewer at the start of a scene, where the perception
has no longer past when it is used either. (The official loader shows another scene's images there.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from odvla_bench.baselines.opendrivevla.features import KeyframeFeatures
from odvla_bench.baselines.opendrivevla.perception.clip import (
    CLIP_FRAMES,
    Clip,
    as_history,
)
from odvla_bench.baselines.opendrivevla.perception.config import Behaviour, EncoderGradients
from odvla_bench.baselines.opendrivevla.perception.extract import keyframe_features
from odvla_bench.baselines.opendrivevla.perception.images import read_images
from odvla_bench.baselines.opendrivevla.perception.inputs import (
    FrameInputs,
    Keyframe,
    Scene,
    frame_inputs,
)
from odvla_bench.baselines.opendrivevla.perception.network import Frames, Perception
from odvla_bench.baselines.opendrivevla.processing import OpenDriveVLAProcessor
from odvla_bench.baselines.training.data import Batch, TrainingData
from odvla_bench.baselines.training.packing import IntArray
from odvla_bench.errors import InputError


class Clips:
    """The clips of a build by the keyframe that they end in; images are read when asked for."""

    def __init__(
        self,
        scenes: Iterable[Scene],
        behaviour: Behaviour,
        *,
        encoder_gradients: EncoderGradients = "last",
    ) -> None:
        """Note where each keyframe stands.

        Args:
            scenes: with annotations.
            behaviour: of the perception. The first keyframe of a clip has no motion, whatever it
                says of scenes, as in the official training.
            encoder_gradients: see `forward_clip`.
        """
        self._behaviour = replace(behaviour, first_delta_from_previous_scene=False)
        self._encoder_gradients = encoder_gradients
        self._keyframes: dict[str, tuple[Keyframe, ...]] = {}
        for scene in scenes:
            for end, last in enumerate(scene.keyframes, 1):
                start = max(end - CLIP_FRAMES, 0)
                self._keyframes[last.sample_token] = scene.keyframes[start:end]

    def __getitem__(self, sample_token: str) -> Clip:
        """The clip that ends in a keyframe, on the host.

        Raises:
            InputError: no such keyframe, or one without annotations.
            ImageError: an image cannot be read.
        """
        if sample_token not in self._keyframes:
            raise InputError(f"Keyframe {sample_token} is in no scene of the build.")
        keyframes = self._keyframes[sample_token]
        known = tuple(k.annotations for k in keyframes if k.annotations is not None)
        if len(known) < len(keyframes):
            raise InputError(f"Keyframe {sample_token}: its clip has keyframes without boxes.")
        previous = (None, *keyframes[:-1])
        frames = tuple(map(self._frame, keyframes, previous))
        return Clip(frames, known, self._encoder_gradients)

    def _frame(self, keyframe: Keyframe, previous: Keyframe | None) -> Frames:
        inputs = frame_inputs(keyframe, previous, self._behaviour)
        images = read_images(keyframe.image_paths)[None]
        return Frames.of(images, FrameInputs.stack([inputs]), "cpu")


class LiveTokens:
    """A `TokenSource` for validation: what a network that is in training makes of clips."""

    signature = "tokens:perception in training"

    def __init__(self, clips: Clips, network: Perception, fingerprint: str) -> None:
        """Hold the network, wherever it is and whatever it will have learnt."""
        self._clips, self._network, self.fingerprint = clips, network, fingerprint

    def __getitem__(self, sample_token: str) -> KeyframeFeatures:
        """The tokens of a keyframe, as the perception is used: in evaluation mode."""
        network = self._network
        clip = self._clips[sample_token].to(network.query_embedding.weight.device)
        state = None
        with as_history(network):
            for frame in clip.frames:
                output, state = network(frame, state)
        return keyframe_features(output.tokens(0, network.config), clip.annotations[-1])


class ClipData(TrainingData):
    """Conversations with their clips; a pack is one conversation, as many as in the paper's step.

    How many tokens a keyframe has is known when the model has seen it, so each kind has one slot.
    """

    def __init__(
        self,
        conversations: pa.Table,
        processor: OpenDriveVLAProcessor,
        system: str,
        clips: Clips,
        *,
        pack_length: int,
        seed: int = 0,
    ) -> None:
        """Arguments as for `TrainingData`; `pack_length` bounds the text alone."""
        super().__init__(
            conversations, processor, system, _ONE_SLOT, pack_length=pack_length, seed=seed
        )
        self._clips = clips

    def packs(self, epoch: int) -> list[IntArray]:
        """Packs of an epoch: one conversation each."""
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._pieces))
        return list(order[:, None])

    def __getitem__(self, pack: Any) -> Batch:
        """The batch of a pack."""
        batch = super().__getitem__(pack)
        sample = self._value("sample_token", self._pieces[int(pack[0])][0])
        inputs = {k: batch.inputs[k] for k in ("input_ids", "position_ids")}
        return replace(batch, inputs=inputs, clip=self._clips[sample])


@dataclass(frozen=True, eq=False)
class _OneSlot:
    """A `TokenSource` that only says that there is a token of each kind."""

    scene: npt.NDArray[np.float32]
    agents: npt.NDArray[np.float32]
    map: npt.NDArray[np.float32]
    instance_id: npt.NDArray[np.int64]
    fingerprint: str = "one-slot"
    signature: str = "one-slot"

    def __getitem__(self, sample_token: str) -> _OneSlot:
        return self


_NOTHING = np.zeros((1, 0), np.float32)
_ONE_SLOT = _OneSlot(_NOTHING, _NOTHING, _NOTHING, np.full(1, -1))
