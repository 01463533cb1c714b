from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from perception_goldens import Load, close
from perception_scenes import scene, small_network

from odvla_bench.baselines.opendrivevla.perception.agents import Agents
from odvla_bench.baselines.opendrivevla.perception.config import perception_config
from odvla_bench.baselines.opendrivevla.perception.images import read_images
from odvla_bench.baselines.opendrivevla.perception.inputs import (
    FrameInputs,
    Keyframe,
    Scene,
    scene_inputs,
)
from odvla_bench.baselines.opendrivevla.perception.network import (
    Frames,
    Perception,
    PerceptionOutput,
)
from odvla_bench.baselines.opendrivevla.perception.tokens import agent_tokens, scene_tokens


def run(
    network: Perception, scenes: list[Scene], before: Keyframe | None = None
) -> list[PerceptionOutput]:
    """All frames of scenes of equal length, side by side."""
    inputs = [scene_inputs(s, network.config.behaviour, before) for s in scenes]
    outputs, state = [], None
    for t in range(len(scenes[0].keyframes)):
        images = np.stack([read_images(s.keyframes[t].image_paths) for s in scenes])
        frames = Frames.of(images, FrameInputs.stack([frame[t] for frame in inputs]), "cpu")
        with torch.no_grad():
            output, state = network(frames, state)
        outputs.append(output)
    return outputs


def test_scenes_side_by_side_equal_one_by_one(tmp_path: Path) -> None:
    network = small_network()
    scenes = [scene(tmp_path, f"s{i}", frames=3, seed=i) for i in range(2)]
    together = run(network, scenes)
    born = 0
    for b, one in enumerate(scenes):
        for alone, both in zip(run(network, [one]), together, strict=True):
            a, t = alone.tokens(0, network.config), both.tokens(b, network.config)
            assert torch.equal(a.agent_ids, t.agent_ids)
            assert torch.equal(a.agent_labels, t.agent_labels)
            born = max(born, int(a.agent_ids.max()) + 1)
            for name in ("scene", "agents", "map", "agent_boxes", "agent_scores"):
                close(getattr(t, name), getattr(a, name), 2e-5)
    assert born > 20


def test_only_fixed_results_stand_apart_from_the_scene_before(tmp_path: Path) -> None:
    one = scene(tmp_path, frames=1)
    other = scene(tmp_path, "other", frames=1, seed=5).keyframes[0]
    moved = replace(other, ego_translation_m=other.ego_translation_m + [20.0, 5.0, 0.0])
    for behaviour, same in (("fixed", True), ("released", False)):
        network = small_network(behaviour)
        alone, after = run(network, [one])[0], run(network, [one], before=moved)[0]
        assert torch.equal(alone.bev, after.bev) is same


def test_state_of_some_scenes_goes_on_alone(tmp_path: Path) -> None:
    network = small_network()
    scenes = [scene(tmp_path, f"s{i}", frames=2, seed=i) for i in range(2)]
    inputs = [scene_inputs(s, network.config.behaviour) for s in scenes]

    def frames(t: int, which: list[int]) -> Frames:
        images = np.stack([read_images(scenes[b].keyframes[t].image_paths) for b in which])
        return Frames.of(images, FrameInputs.stack([inputs[b][t] for b in which]), "cpu")

    with torch.no_grad():
        _, state = network(frames(0, [0, 1]))
        output, _ = network(frames(1, [1]), state.scenes(torch.tensor([1])))
    expected = run(network, [scenes[1]])[1]
    close(output.bev, expected.bev, 2e-5)
    assert torch.equal(output.tracking.tracks.identity, expected.tracking.tracks.identity)


def test_released_tokens_lack_the_weakest_agent(tmp_path: Path) -> None:
    output = run(small_network(), [scene(tmp_path, frames=1)])[0]
    fixed = agent_tokens(
        output.tracking.agents, 0, perception_config("uniad-small", behaviour="fixed")
    )
    released = agent_tokens(output.tracking.agents, 0, perception_config("uniad-small"))
    assert torch.equal(released.features, fixed.features[:-1])
    assert fixed.scores[-1] == fixed.scores.min()


@pytest.mark.parametrize(("seen", "tokens"), [(0, 0), (1, 0), (3, 2)])
def test_released_agent_count(seen: int, tokens: int) -> None:
    valid = torch.arange(5)[None] < seen
    empty = torch.zeros(1, 5)
    agents = Agents(torch.zeros(1, 5, 256), torch.zeros(1, 5, 9), empty, empty, empty, valid)
    config = perception_config("uniad-small")
    assert len(agent_tokens(agents, 0, config).features) == tokens


@pytest.mark.golden
def test_scene_agent_and_map_tokens_equal_the_original(load: Load) -> None:
    weights, inputs, outputs = (load(f"tokens/{n}") for n in ("weights", "inputs", "outputs"))

    def projected(x: torch.Tensor, kind: str) -> torch.Tensor:
        first, second = (f"model.mm_projector_{kind}.{i}" for i in (0, 2))
        hidden = F.gelu(F.linear(x, weights[f"{first}.weight"], weights[f"{first}.bias"]))
        return F.linear(hidden, weights[f"{second}.weight"], weights[f"{second}.bias"])

    scene_ours = projected(scene_tokens(inputs["img_feat_2D"])[0], "scene")
    close(scene_ours, outputs["scene_feature"], 1e-6)
    close(projected(inputs["track_query_embeddings"], "track"), outputs["track_feature"], 1e-6)
    tokens = torch.cat([inputs["chosen_output_query_things"], inputs["output_query_stuff"]])
    close(projected(tokens, "map"), outputs["map_feature"], 1e-6)
