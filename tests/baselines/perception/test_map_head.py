from __future__ import annotations

import pytest
import torch
from odvla_bench.baselines.opendrivevla.perception.config import perception_config
from odvla_bench.baselines.opendrivevla.perception.map_head import MapHead
from odvla_bench.baselines.opendrivevla.perception.map_masks import mask_quality
from perception_goldens import Load, close, fill, rows

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
