"""What half precision may change: the view, and what stands within a margin of a threshold.

A bfloat16 number has 8 significant bits, a relative error of at most 2**-8. All that chooses
tokens runs in float32, so for the same view nothing changes at all. The view itself is made in
half precision. A score is a probability that moves by at most a quarter of its logit's error, so
2**-8 is a margin for scores whose logits are of order 1. A mask value is a sum over 8 heads: its
margin is 8 * 2**-8, and an element's score may be anything that masks within it can give.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from perception_goldens import Load, fill
from torch import Tensor

from odvla_bench.baselines.opendrivevla.perception.config import perception_config
from odvla_bench.baselines.opendrivevla.perception.map_head import MapHead
from odvla_bench.baselines.opendrivevla.perception.map_masks import mask_quality
from odvla_bench.baselines.opendrivevla.perception.network import Perception, TrackOutput

SCORE_MARGIN = 2.0**-8
MASK_MARGIN = 8 * 2.0**-8

pytestmark = pytest.mark.golden


def half() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


@pytest.fixture(scope="module")
def network(load: Load) -> Perception:
    """The goldens' weights of view, tracking and map in one network."""
    made = Perception(perception_config("uniad-small"))
    fill(made, load("track/weights"), partial=True)
    fill(made.pts_bbox_head, load("bev/weights"), "pts_bbox_head.", partial=True)
    fill(made.seg_head, load("map/weights"), "seg_head.")
    return made.eval()


@pytest.fixture(scope="module")
def views(load: Load, network: Perception) -> list[tuple[Tensor, Tensor]]:
    """The view of three consecutive frames in float32 and under autocast."""
    inputs = load("bev/inputs")

    def run() -> Iterator[Tensor]:
        view = None
        for t in range(3):
            features = [inputs[f"f{t}.feat{level}"] for level in range(4)]
            geometry = inputs[f"f{t}.lidar2img"][None], inputs[f"f{t}.can_bus_delta"][None]
            view = network.pts_bbox_head.encode(features, *geometry, (96, 160), view)
            yield view

    with torch.no_grad():
        plain = list(run())
        with half():
            return list(zip(plain, run(), strict=True))


def test_tracking_of_a_view_is_the_same(load: Load, network: Perception) -> None:
    bev = load("track/inputs")["f0.bev_embed"].transpose(0, 1)
    with torch.no_grad():
        plain, _ = network.track(bev, None, None)
        with half():
            found, _ = network.track(bev, None, None)
    assert torch.equal(found.tracks.identity, plain.tracks.identity)
    assert torch.equal(found.agents.features, plain.agents.features)


@pytest.mark.parametrize("case", ["c0", "c1"])
def test_the_map_of_a_view_is_the_same(load: Load, network: Perception, case: str) -> None:
    view = load("map/inputs")[f"{case}.bev_embed"].transpose(0, 1)
    with torch.no_grad():
        plain = network.seg_head(view)[0]
        with half():
            found = network.seg_head(view)[0]
    assert len(plain.ranks) > 5
    for name in ("ranks", "labels", "scores", "tokens", "masks", "drivable"):
        assert torch.equal(getattr(found, name), getattr(plain, name))


def test_views_stay_close(views: list[tuple[Tensor, Tensor]]) -> None:
    for plain, found in views:
        assert found.dtype == torch.float32
        assert 0 < (found - plain).std() < SCORE_MARGIN * plain.std()


def test_tracks_change_only_within_the_margin(
    network: Perception, views: list[tuple[Tensor, Tensor]]
) -> None:
    config = network.config
    born = 0
    for pair in views:
        plain, found = (_tracked(network, view) for view in pair)
        scores = plain.scores[0]
        assert (found.scores - plain.scores).abs().max() < SCORE_MARGIN
        for threshold in (config.birth_score, config.active_score):
            clear = (scores - threshold).abs() > SCORE_MARGIN
            same = (scores >= threshold) == (found.scores[0] >= threshold)
            assert same[clear].all()
        born += int((scores >= config.birth_score).sum())
    assert born > 5


def test_map_elements_change_only_within_the_margin(
    network: Perception, views: list[tuple[Tensor, Tensor]]
) -> None:
    head = network.seg_head
    above = clear = 0
    for pair in views:
        plain, found = (_candidates(head, view) for view in pair)
        last = min(score for score, _ in plain.values())
        for key, (score, mask) in plain.items():
            if key not in found:
                assert score - last < SCORE_MARGIN
                continue
            half_score, half_mask = found[key]
            assert abs(half_score - score) < SCORE_MARGIN
            low, high = _bounds(score, mask)
            final = half_score * float(mask_quality(half_mask)) ** 2
            assert low <= final <= high
            if low >= head.config.map_score or high < head.config.map_score:
                clear += 1
                expected = score * float(mask_quality(mask)) ** 2 >= head.config.map_score
                assert (final >= head.config.map_score) == expected
                above += expected
    assert above > 0
    assert clear > 250


def _tracked(network: Perception, view: Tensor) -> TrackOutput:
    with torch.no_grad():
        return network.track(view, None, None)[0]


def _candidates(head: MapHead, view: Tensor) -> dict[tuple[int, int], tuple[float, Tensor]]:
    """(query, class) → class score and mask of each candidate."""
    with torch.no_grad():
        queries = head.decode(head.encode(view))
        scores, labels, index = head.candidates(queries)
        chosen = queries.features.gather(1, index[..., None].expand(-1, -1, 256))
        masks, _ = head.things_mask_head(chosen, queries.memory)
    keys = zip(index[0].tolist(), labels[0].tolist(), strict=True)
    return dict(zip(keys, zip(scores[0].tolist(), masks[0], strict=True), strict=True))


def _bounds(score: float, mask: Tensor) -> tuple[float, float]:
    """Least and greatest final score where mask values are known to within the margin only."""
    sure = mask > 0.5 + MASK_MARGIN
    unsure = mask[(mask - 0.5).abs() <= MASK_MARGIN].sort(descending=True).values
    sums = torch.cat([mask.new_zeros(1), unsure.cumsum(0)]) + (mask * sure).sum()
    quality = sums / (torch.arange(len(sums)) + sure.sum() + 1)
    low = max(float(quality.min()) - MASK_MARGIN, 0.0)
    high = float(quality.max()) + MASK_MARGIN
    return max(score - SCORE_MARGIN, 0.0) * low**2, (score + SCORE_MARGIN) * high**2
