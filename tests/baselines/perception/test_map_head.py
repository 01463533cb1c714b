from __future__ import annotations

import pytest
import torch
from perception_goldens import Load, close, fill, rows

from odvla_bench.baselines.opendrivevla.perception.config import perception_config
from odvla_bench.baselines.opendrivevla.perception.map_head import MapHead
from odvla_bench.baselines.opendrivevla.perception.map_masks import mask_quality, merge_masks

CONFIG = perception_config("uniad-small")


@pytest.fixture(scope="module")
def head(load: Load) -> MapHead:
    module = MapHead(CONFIG)
    fill(module, load("map/weights"), "seg_head.")
    return module


@pytest.mark.golden
def test_positions_equal_the_original(load: Load, head: MapHead) -> None:
    ours = head.position(torch.device("cpu"))
    close(*rows(ours, load("map/outputs"), "lvl_pos_embed"), 1e-6)


@pytest.mark.golden
@pytest.mark.parametrize("case", ["c0", "c1"])
def test_map_equals_the_original(load: Load, head: MapHead, case: str) -> None:
    golden = {
        k.removeprefix(f"{case}."): v
        for k, v in load("map/outputs").items()
        if k.startswith(f"{case}.")
    }
    with torch.no_grad():
        memory = head.encode(load("map/inputs")[f"{case}.bev_embed"].transpose(0, 1))
        queries = head.decode(memory)
        scores, labels, index = head.candidates(queries)
        chosen = queries.features[0, index[0]][None]
        masks, things = head.things_mask_head(chosen, memory)
        query, position = head.stuff_query.weight[None].chunk(2, -1)
        drivable, stuff = head.stuff_mask_head(query, memory, position)
        out = head.elements(queries)[0]
    close(*rows(memory, golden, "memory"), 1e-5)
    close(queries.features[0], golden["hs_last"], 1e-5)
    close(queries.class_logits[:, 0], golden["outputs_classes"], 1e-5)
    close(queries.boxes[:, 0], golden["outputs_coords"], 1e-5)
    close(queries.boxes[:, 0], golden["inter_references"], 1e-5)
    reference = head.transformer.reference_points(head.query_embedding.weight[:, :256])
    close(reference.sigmoid(), golden["init_reference"], 1e-5)
    close(masks[0, :5], golden["mask_things_first5"], 1e-5)
    close(drivable[0], golden["mask_stuff"], 1e-5)
    close(things[0], golden["output_query_things"], 1e-5)
    close(stuff[0], golden["output_query_stuff"], 1e-5)
    final, order = (scores * mask_quality(masks) ** 2)[0].sort(descending=True)
    close(final, golden["bbox"][:, 4], 1e-5)
    box = queries.boxes[-1, 0, index[0, order]] * CONFIG.bev_rows
    corners = torch.cat([box[:, :2] - box[:, 2:] / 2, box[:, :2] + box[:, 2:] / 2], -1)
    close(corners.clamp(0, CONFIG.bev_rows), golden["bbox"][:, :4], 1e-5)
    close(out.tokens[:-1], golden["chosen_output_query_things"], 1e-5)
    assert torch.equal(out.ranks, golden["chosen_rank_index"])
    assert torch.equal(out.drivable.byte(), golden["drivable"])
    assert torch.equal(out.masks.byte(), golden["lane"])
    assert torch.equal(labels[0, order], golden["labels"])


MASKS = torch.tensor(
    [
        [1, 1, 1, 1, 0, 0, 0, 0],
        [0, 0, 1, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 1, 1, 1],
        [0, 0, 0, 0, 0, 0, 0, 1],
    ],
    dtype=torch.bool,
)


@pytest.mark.parametrize(
    ("labels", "never", "accepted"),
    [
        pytest.param([1, 1, 1, 1, 1], True, [0, 3], id="half covered, empty, and below score"),
        pytest.param([0, 1, 1, 1, 1], True, [0, 1, 3], id="class 0 leaves its cells free"),
        pytest.param([0, 1, 1, 1, 1], False, [0, 3], id="class 0 takes its cells when fixed"),
    ],
)
def test_merge(labels: list[int], never: bool, accepted: list[int]) -> None:
    scores = [0.9, 0.8, 0.7, 0.6, 0.05]
    ranks, cells = merge_masks(
        MASKS,
        labels,
        scores,
        minimum_score=0.1,
        overlap=0.4,
        first_class_never_occupies=never,
    )
    assert ranks == accepted
    assert cells.shape == (len(accepted), 8)
    assert torch.equal(cells[0], MASKS[0])
    if 1 in accepted:
        assert cells[2].tolist() == [False] * 6 + [True] * 2


def test_merge_of_nothing() -> None:
    ranks, cells = merge_masks(
        MASKS, [1] * 5, [0.0] * 5, minimum_score=0.1, overlap=0.4, first_class_never_occupies=True
    )
    assert (ranks, cells.shape) == ([], (0, 8))


def test_quality_counts_one_cell_more_than_there_are() -> None:
    assert mask_quality(torch.tensor([[0.6, 2.0, 0.5], [0.0, 0.1, 0.2]])).tolist() == [
        pytest.approx(2.6 / 3),
        0.0,
    ]


@pytest.mark.golden
def test_fixed_tokens_belong_to_the_accepted_masks(load: Load) -> None:
    fixed = MapHead(perception_config("uniad-small", behaviour="fixed"))
    fill(fixed, load("map/weights"), "seg_head.")
    with torch.no_grad():
        queries = fixed.decode(fixed.encode(load("map/inputs")["c0.bev_embed"].transpose(0, 1)))
        scores, _, index = fixed.candidates(queries)
        chosen = queries.features[0, index[0]][None]
        masks, things = fixed.things_mask_head(chosen, queries.memory)
        out = fixed.elements(queries)[0]
    final = (scores * mask_quality(masks) ** 2)[0]
    for token, score in zip(out.tokens[:-1], out.scores, strict=True):
        candidate = (things[0] - token).abs().sum(-1).argmin()
        assert final[candidate] == score
