from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from perception_goldens import Load, close, fill, rows
from torch import Tensor

from odvla_bench.baselines.opendrivevla.perception.agents import (
    heading,
    metric_boxes,
    select_agents,
)
from odvla_bench.baselines.opendrivevla.perception.config import perception_config
from odvla_bench.baselines.opendrivevla.perception.layers import inverse_sigmoid
from odvla_bench.baselines.opendrivevla.perception.network import (
    Perception,
    TrackOutput,
    TrackState,
)
from odvla_bench.baselines.opendrivevla.perception.track_decoder import Detections
from odvla_bench.baselines.opendrivevla.perception.tracker import (
    EGO,
    FREE,
    Motion,
    empty_tracks,
    life_cycle,
    moved_reference,
    survivors,
)

CONFIG = perception_config("uniad-small")
FRAMES = 7


def relative_motion(before: dict[str, Tensor], now: dict[str, Tensor]) -> Motion:
    """`Motion` from the official poses, whose rotation multiplies row vectors."""
    to_global, from_global = before["l2g_r"].double(), torch.linalg.inv(now["l2g_r"].double())
    offset = before["l2g_t"].double() - now["l2g_t"].double()
    return Motion(
        rotation=(to_global @ from_global).T[None],
        translation_m=(offset @ from_global)[None],
        seconds=now["timestamp"] - before["timestamp"],
    )


@pytest.fixture(scope="module")
def network(load: Load) -> Perception:
    model = Perception(CONFIG)
    fill(model, load("track/weights"), partial=True)
    return model


@pytest.fixture(scope="module")
def frames(load: Load) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    inputs = load("track/inputs")
    outputs = load("track/outputs_f0-3") | load("track/outputs_f4-6")

    def split(tensors: dict[str, Tensor], t: int) -> dict[str, Tensor]:
        prefix = f"f{t}."
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    return [split(inputs, t) for t in range(FRAMES)], [split(outputs, t) for t in range(FRAMES)]


def golden_state(network: Perception, after: dict[str, Tensor], born: int) -> TrackState:
    """The state the original handed to the next frame, in our padded slots."""
    count = len(after["next.obj_idxes_tail"])
    slots = -(-count // CONFIG.track_block) * CONFIG.track_block
    tracks = empty_tracks(torch.zeros(1, slots, 512), torch.zeros(1, slots, 3), 4)
    tail = {
        "query": after["next.query_tail"],
        "reference": after["next.ref_pts_tail"],
        "identity": after["next.obj_idxes_tail"],
        "missed": after["next.disappear_time_tail"],
        "memory": after["next.mem_bank_tail"],
        "forgotten": after["next.mem_padding_mask_tail"].bool(),
        "wait": after["next.save_period_tail"].long(),
        "velocity_mps": after["next.pred_boxes_tail"][:, 8:],
    }
    for name, value in tail.items():
        getattr(tracks, name)[0, :count] = value
    return TrackState(tracks, torch.tensor([born]))


def compare(
    out: TrackOutput, after: TrackState, golden: dict[str, Tensor], tolerance: float, box: float
) -> None:
    count = len(golden["scores"])

    def first(x: Tensor) -> Tensor:
        return x[0, :count]

    found = out.detections
    close(found.class_logits[:, 0, :count], golden["all_cls_scores"], tolerance)
    close(found.boxes[:, 0, :count], golden["all_bbox_preds"], box)
    close(first(found.trajectories), golden["all_past_traj_preds_last"], box)
    close(first(found.reference), golden["last_ref_points"], tolerance)
    close(*rows(first(found.features), golden, "query_feats_last"), tolerance)
    close(first(out.scores), golden["scores"], tolerance)
    assert torch.equal(first(out.tracks.identity), golden["obj_idxes"])
    assert torch.equal(first(out.tracks.missed), golden["disappear_time"])
    close(out.ego[0], golden["sdc_embedding"], tolerance)

    agents = out.agents.of(0)
    close(agents.features, golden["res.track_query_embeddings"], tolerance)
    close(agents.boxes, golden["res.boxes_3d"], box)
    kept = golden["res.mask"].bool()
    close(agents.scores, golden["res.scores_3d"], tolerance)
    assert torch.equal(agents.labels, golden["res.labels_3d"])
    assert torch.equal(agents.identities, golden["res.track_ids"][kept])

    all_queries = torch.arange(found.features.shape[1])[None] < count
    detected = select_agents(
        found.features,
        found.class_logits[-1],
        found.boxes[-1],
        out.tracks.identity,
        all_queries,
        CONFIG,
    )
    close(detected.of(0).scores, golden["res.scores_3d_det"], tolerance)
    gap = golden["res.scores_3d_det"].diff().abs()
    clear = F.pad(gap, (1, 0), value=1.0).minimum(F.pad(gap, (0, 1), value=1.0)) > tolerance
    assert clear.sum() > 100
    close(detected.of(0).boxes[clear], golden["res.boxes_3d_det"][clear], box)
    ego_box = metric_boxes(found.boxes[-1][0, CONFIG.queries])
    close(ego_box[None], golden["res.sdc_boxes_3d"], box)

    tracks = after.tracks
    alive = len(golden["next.obj_idxes_tail"])
    assert (tracks.identity[0, alive:] == FREE).all()
    assert torch.equal(tracks.identity[0, :alive], golden["next.obj_idxes_tail"])
    assert torch.equal(tracks.missed[0, :alive], golden["next.disappear_time_tail"])
    assert torch.equal(tracks.wait[0, :alive].float(), golden["next.save_period_tail"])
    assert torch.equal(tracks.forgotten[0, :alive].byte(), golden["next.mem_padding_mask_tail"])
    close(tracks.query[0, :alive], golden["next.query_tail"], tolerance)
    close(tracks.reference[0, :alive], golden["next.ref_pts_tail"], tolerance)
    close(tracks.memory[0, :alive], golden["next.mem_bank_tail"], tolerance)
    close(tracks.velocity_mps[0, :alive], golden["next.pred_boxes_tail"][:, 8:], box)


@pytest.mark.golden
@pytest.mark.parametrize("t", range(FRAMES))
def test_one_frame_equals_the_original(
    network: Perception,
    frames: tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]],
    t: int,
) -> None:
    inputs, goldens = frames
    state = motion = None
    if t:
        born = 1 + max(int(g["obj_idxes"].max()) for g in goldens[:t])
        state = golden_state(network, goldens[t - 1], born)
        motion = relative_motion(inputs[t - 1], inputs[t])
    golden, count = goldens[t], len(goldens[t]["scores"])
    decode = network.pts_bbox_head.decode

    def decode_from_golden(
        bev: Tensor, query: Tensor, reference: Tensor, padding: Tensor
    ) -> Detections:
        close(query[0, 901:count], golden["in.query_tail"], 1e-6)
        close(reference[0, :901], golden["in.ref_pts"][:901], 1e-6)
        # The original moves tracks through global coordinates in float32, whose steps are 0.06 mm
        # there; we do it in float64. A logit far out magnifies that: compare metres, and go on
        # from the original's.
        span_m = torch.tensor([102.4, 102.4, 8.0])
        moved = (reference[0, 901:count].sigmoid() - golden["in.ref_pts"][901:].sigmoid()) * span_m
        assert (moved.abs() <= 2e-4).all()
        reference = reference.clone()
        reference[0, :count] = golden["in.ref_pts"]
        return decode(bev, query, reference, padding)

    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(network.pts_bbox_head, "decode", decode_from_golden)
        out, after = network.track(inputs[t]["bev_embed"].transpose(0, 1), state, motion)
    compare(out, after, golden, 1e-5, 1e-4)


@pytest.mark.golden
def test_seven_frames_equal_the_original(
    network: Perception, frames: tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]
) -> None:
    inputs, goldens = frames
    state = motion = None
    for t in range(FRAMES):
        if t:
            motion = relative_motion(inputs[t - 1], inputs[t])
        with torch.no_grad():
            out, state = network.track(inputs[t]["bev_embed"].transpose(0, 1), state, motion)
        compare(out, state, goldens[t], 1e-4, 3e-4)


@pytest.mark.golden
def test_motion_compensation_equals_the_original(load: Load) -> None:
    unit = load("track/velo_update_unit")
    count = len(unit["velocity"])
    tracks = empty_tracks(torch.zeros(1, count, 512), unit["ref_pts_logit"][None], 4)
    tracks.velocity_mps[0] = unit["velocity"]
    motion = relative_motion(
        {"l2g_r": unit["l2g_r1"], "l2g_t": unit["l2g_t1"], "timestamp": torch.zeros(1)},
        {"l2g_r": unit["l2g_r2"], "l2g_t": unit["l2g_t2"], "timestamp": unit["dt"].double()},
    )
    ours = moved_reference(tracks, motion, CONFIG)[0]
    close(ours, unit["out_ref_pts_logit"][:, :2], 1e-5)


@pytest.mark.parametrize(
    ("identity", "missed", "score", "expected"),
    [
        pytest.param(FREE, 0, 0.39, (FREE, 0), id="too weak to be born"),
        pytest.param(FREE, 0, 0.40, (7, 0), id="born"),
        pytest.param(FREE, 0, -1.0, (FREE, 0), id="empty slot"),
        pytest.param(EGO, 0, 0.99, (EGO, 0), id="ego is no track"),
        pytest.param(3, 2, 0.50, (3, 0), id="seen again"),
        pytest.param(3, 2, 0.37, (3, 2), id="between the thresholds"),
        pytest.param(3, 2, 0.34, (3, 3), id="missed"),
        pytest.param(3, 4, 0.34, (FREE, 5), id="dead"),
    ],
)
def test_life_cycle(identity: int, missed: int, score: float, expected: tuple[int, int]) -> None:
    after, misses, following = life_cycle(
        torch.tensor([[identity]]),
        torch.tensor([[missed]]),
        torch.tensor([[score]]),
        torch.tensor([7]),
        CONFIG,
    )
    assert (after.item(), misses.item()) == expected
    assert following.item() == (8 if expected[0] == 7 else 7)


rows_of_tracks = st.lists(
    st.tuples(st.sampled_from([FREE, EGO, 0, 1, 2]), st.integers(0, 5), st.floats(0, 1, width=32)),
    min_size=1,
    max_size=12,
)


@given(rows_of_tracks)
@settings(max_examples=100)
def test_life_cycle_equals_a_loop_over_rows(rows: list[tuple[int, int, float]]) -> None:
    following, expected = 10, []
    for before, misses_before, score in rows:
        identity, missed = before, misses_before
        if score >= torch.tensor(0.40):
            missed = 0
        if identity == FREE and score >= torch.tensor(0.40):
            identity, following = following, following + 1
        elif identity >= 0 and score < torch.tensor(0.35):
            missed += 1
            if missed >= 5:
                identity = FREE
        expected.append((identity, missed))
    identities, misses, scores = (torch.tensor([list(x)]) for x in zip(*rows, strict=True))
    after, missed_after, next_after = life_cycle(
        identities, misses, scores.float(), torch.tensor([10]), CONFIG
    )
    assert list(zip(after[0].tolist(), missed_after[0].tolist(), strict=True)) == expected
    assert next_after.item() == following


@given(st.lists(st.lists(st.booleans(), min_size=9, max_size=9), min_size=1, max_size=3))
@settings(max_examples=50)
def test_survivors_come_first_and_in_order(alive: list[list[bool]]) -> None:
    identity = torch.where(torch.tensor(alive), torch.arange(9), FREE)
    order = survivors(identity, 4)
    assert order.shape[1] in (4, 8, 9)
    for b, scene in enumerate(alive):
        tracks = [slot for slot, lives in enumerate(scene) if lives]
        assert order[b, : len(tracks)].tolist() == tracks
        assert (identity[b, order[b, len(tracks) :]] == FREE).all()


def test_agents_out_of_range_or_asleep_are_left_out() -> None:
    boxes = torch.zeros(1, 4, 10)
    boxes[0, :, 0] = torch.tensor([0.0, 61.3, 61.2, 0.0])
    logits = torch.tensor([0.1, 3.0, 2.0, 4.0])[None, :, None] - torch.arange(10.0)
    active = torch.tensor([[True, True, True, False]])
    numbers = torch.arange(4)[None]
    agents = select_agents(torch.zeros(1, 4, 256), logits, boxes, numbers, active, CONFIG).of(0)
    assert agents.identities.tolist() == [2, 0]
    best = replace(CONFIG, max_agents=1)
    agents = select_agents(torch.zeros(1, 4, 256), logits, boxes, numbers, active, best).of(0)
    assert agents.identities.tolist() == []


def test_heading_of_the_official_yaw() -> None:
    # A car that drives along +y (forward) has heading pi/2 and official yaw -pi.
    assert heading(torch.tensor(-torch.pi)).item() == pytest.approx(torch.pi / 2)
    assert heading(torch.tensor(0.0)).item() == pytest.approx(-torch.pi / 2)


@pytest.mark.parametrize("p", [0.0, 1e-6, 0.25, 0.5, 1.0])
def test_inverse_sigmoid(p: float) -> None:
    bounded = min(max(p, 1e-5), 1 - 1e-5)
    assert inverse_sigmoid(torch.tensor(p)).sigmoid().item() == pytest.approx(bounded, rel=1e-3)
