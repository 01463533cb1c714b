import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from odvla_bench.errors import UnknownNameError
from odvla_bench.metrics import (
    ObstacleBoxes,
    PlanningScores,
    boxes_from_tracks,
    get_protocol,
    rasterise_boxes,
    score_planning,
)

Arrays = dict[str, np.ndarray]

GOLDEN_OF = {
    "stp3": "stp3",
    "uniad": "uniad",
    "agent-driver-uniad": "agd_uniad",
    "opendrivevla": "odv_veh",
    "opendrivevla-all": "odv_all",
    "agent-driver-stp3": "agd_stp3",
    "vad": "vad",
    "sparsedrive": "sparse",
}
RUNS = [
    *((name, prefix, np.float32) for name, prefix in GOLDEN_OF.items()),
    ("opendrivevla", "odv_veh_f64", np.float64),
    ("vad", "vad_nofilter", np.float32),
]
FROM_OCCUPANCY = [run for run in RUNS if run[1] != "sparse"]
FROM_BOXES = [run for run in RUNS if run[1] != "vad_nofilter"]
FLAGS = {
    "gt_box_col": "gt_collision",
    "obj_box_col": "box_collision",
    "obj_col": "point_collision",
}


def scored_cases(
    cases: Arrays, name: str, dtype: Any, rows: Any = slice(None), **obstacles: Any
) -> PlanningScores:
    return score_planning(
        cases["pred"][rows].astype(dtype),
        cases["gt"][rows].astype(dtype),
        cases["n_valid"][rows],
        protocol=name,
        **obstacles,
    )


def assert_flags(scores: PlanningScores, expected: Arrays, prefix: str) -> None:
    for key, attribute in FLAGS.items():
        want, got = expected[f"{prefix}__{key}"], getattr(scores, attribute)
        evaluated = np.isfinite(want) & (want >= 0)
        wrong = (got != (want == 1)) & evaluated
        assert wrong.sum() == 0, f"{key}: {np.argwhere(wrong)[:5].tolist()}"


@pytest.mark.golden
@pytest.mark.parametrize(("name", "prefix", "dtype"), FROM_OCCUPANCY)
def test_flags_from_occupancy(
    name: str, prefix: str, dtype: Any, cases: Arrays, given_occupancy: Arrays
) -> None:
    scores = scored_cases(cases, name, dtype, occupancy=given_occupancy[prefix])
    assert_flags(scores, cases, prefix)


@pytest.mark.golden
@pytest.mark.parametrize(("name", "prefix", "dtype"), FROM_BOXES)
def test_flags_from_boxes(
    name: str, prefix: str, dtype: Any, cases: Arrays, case_boxes: ObstacleBoxes
) -> None:
    assert_flags(scored_cases(cases, name, dtype, boxes=case_boxes), cases, prefix)


@pytest.mark.golden
@pytest.mark.parametrize(("name", "prefix", "dtype"), RUNS)
def test_displacements_and_sample_sets(name: str, prefix: str, dtype: Any, cases: Arrays) -> None:
    if f"{prefix}__L2" not in cases:
        prefix = "stp3"  # VAD prints means only; ST-P3 evaluates the same complete samples.
    expected = cases[f"{prefix}__L2"]
    scores = scored_cases(cases, name, dtype)
    assert np.array_equal(scores.scored, np.isfinite(expected).all(1))
    np.testing.assert_allclose(scores.l2_m, expected, atol=2e-5)


@pytest.mark.golden
def test_the_ground_truth_collision_counter(cases: Arrays, given_occupancy: Arrays) -> None:
    expected = cases["odv_veh__gt_collision_flag"] == 1
    for dtype in (np.float32, np.float64):
        scores = scored_cases(cases, "opendrivevla", dtype, occupancy=given_occupancy["odv_veh"])
        assert np.array_equal(scores.gt_collision_sample, expected)
        assert scores.counts()["gt_collision_samples"] == expected.sum() > 0


def groups(tables: Arrays) -> dict[str, np.ndarray]:
    bounds = zip(tables["group_offset"], tables["group_offset"][1:], strict=False)
    rows = [tables["group_index"][start:stop] for start, stop in bounds]
    return dict(zip(tables["group_names"].tolist(), rows, strict=True))


COLUMNS = ("1s", "2s", "3s", "avg")
METRICS = {"L2": "l2_m", "obj_col": "point_collision", "obj_box_col": "collision"}


@pytest.mark.golden
@pytest.mark.parametrize(("name", "prefix", "dtype"), RUNS)
def test_tables_of_every_group(
    name: str,
    prefix: str,
    dtype: Any,
    cases: Arrays,
    tables: Arrays,
    given_occupancy: Arrays,
    case_boxes: ObstacleBoxes,
) -> None:
    if prefix == "odv_veh_f64":
        prefix = "odv_veh"  # the tables were printed from single precision
    occupancy = given_occupancy.get(prefix)
    for g, rows in enumerate(groups(tables).values()):
        obstacles = (
            {"boxes": subset(case_boxes, rows)}
            if occupancy is None
            else {"occupancy": occupancy[rows]}
        )
        scores = scored_cases(cases, name, dtype, rows, **obstacles)
        assert scores.counts()["scored_samples"] == tables[f"{prefix}__n"][g]
        check_group(scores, tables, prefix, g, dtype)
        if prefix == "odv_veh":
            samples = scores.counts()["gt_collision_samples"]
            assert samples == tables["odv_veh__gt_collision"][g]


def subset(boxes: ObstacleBoxes, rows: np.ndarray) -> ObstacleBoxes:
    """Boxes of some samples, renumbered; a sample may be taken more than once."""
    at = [np.flatnonzero(boxes.sample == row) for row in rows]
    pick = np.concatenate(at)
    renumbered = np.repeat(np.arange(len(rows)), [len(a) for a in at])
    columns = ("step", "instance", "xy_yaw", "wl", "category", "visibility", "n_points")
    picked = {name: getattr(boxes, name)[pick] for name in columns}
    return dataclasses.replace(boxes, sample=renumbered, **picked)


def check_group(scores: PlanningScores, tables: Arrays, prefix: str, g: int, dtype: Any) -> None:
    table = scores.table()
    by_name = {"at": table.get("at_horizon"), "cum": table.get("cumulative")}
    primary = scores.protocol.tables[0].name
    by_name[{"at_horizon": "at", "cumulative": "cum"}[primary]] = table
    steps = scores.step_means()
    for key, metric in METRICS.items():
        if dtype is np.float64 and key == "obj_col":
            continue
        if f"{prefix}__{key}_hsec" in tables:
            compare(table[metric], tables[f"{prefix}__{key}_hsec"][g])
            continue
        np.testing.assert_allclose(steps[metric], tables[f"{prefix}__{key}_step"][g], rtol=1e-5)
        for suffix, printed in by_name.items():
            if printed is not None:
                compare(printed[metric], tables[f"{prefix}__{key}_{suffix}"][g])


def compare(printed: dict[str, float], expected: np.ndarray) -> None:
    got = [printed[column] for column in COLUMNS]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)


def to_lidar(ego: np.ndarray) -> np.ndarray:
    return np.stack([-ego[..., 1], ego[..., 0]], -1)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("name", "prefix", "dtype", "key", "first"),
    [
        ("bev-planner", "bevp_obj", np.float32, "bevp_occ", 0),
        ("omnidrive", "omni", np.float64, "omni_occ", 1),
    ],
)
@pytest.mark.parametrize("source", ["occupancy", "boxes"])
def test_fine_grids(
    name: str,
    prefix: str,
    dtype: Any,
    key: str,
    first: int,
    source: str,
    fine: Arrays,
    fine_boxes: ObstacleBoxes,
) -> None:
    n = len(fine["tag"])
    obstacles = (
        {"occupancy": fine[key][:, first:]} if source == "occupancy" else {"boxes": fine_boxes}
    )
    scores = score_planning(
        to_lidar(fine["pred_ego"]).astype(dtype),
        to_lidar(fine["gt_ego"]).astype(dtype),
        np.full(n, 6),
        protocol=name,
        **obstacles,
    )
    assert np.array_equal(scores.box_collision, fine[f"{prefix}__obj_box_col"] != 0)
    assert np.array_equal(scores.point_collision, fine[f"{prefix}__obj_col"] != 0)
    table = scores.table()
    np.testing.assert_allclose(
        [table["l2_m"][h] for h in COLUMNS[:3]], fine["L2_hsec"].mean(0), atol=1e-5
    )
    if prefix == "bevp_obj":
        assert np.array_equal(scores.gt_collision, fine["bevp_obj__gt_box_col"])
        worst = fine["bevp_obj__hsec_colmax_colmean_boxmax"].mean(0)
        assert [table["point_collision"][h] for h in COLUMNS[:3]] == pytest.approx(worst[:, 0])
        assert [table["collision"][h] for h in COLUMNS[:3]] == pytest.approx(worst[:, 2])


@pytest.mark.golden
@pytest.mark.parametrize(
    ("name", "prefix"), [("stp3", "stp3"), ("uniad", "uniad"), ("opendrivevla", "odv_veh")]
)
def test_sequences_from_global_boxes_and_poses(
    name: str, prefix: str, sequences: Arrays, sequence_boxes: ObstacleBoxes
) -> None:
    n_frames = sequences["n_frames"]
    n_valid = np.clip(n_frames - 3, 0, 6)
    gt = sequences["uniad_sdc_planning"][..., :2]
    if name == "stp3":
        n_valid, gt = np.where(n_frames == 9, 6, 0), sequences["stp3_gt_traj"][:, 1:, :2]
    scores = score_planning(
        sequences["pred"], gt.astype(np.float32), n_valid, protocol=name, boxes=sequence_boxes
    )
    expected_l2 = sequences[f"{prefix}__L2"]
    assert np.array_equal(scores.scored, np.isfinite(expected_l2).all(1))
    np.testing.assert_allclose(scores.l2_m, expected_l2, atol=2e-5)
    for key in ("obj_col", "obj_box_col"):
        expected = sequences[f"{prefix}__{key}"] == 1
        assert np.array_equal(getattr(scores, FLAGS[key])[scores.scored], expected[scores.scored])
    assert scores.box_collision is not None
    assert scores.box_collision[scores.scored].any()


RASTERS = ["uniad", "opendrivevla", "opendrivevla-all", "vad", "stp3", "bev-planner", "omnidrive"]


@st.composite
def scenes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, ObstacleBoxes]:
    """Two samples among boxes that lie about their paths or about the border of the grid."""
    element = st.sampled_from([1.0, 10.0, 49.0, 55.0, 300.0]).flatmap(lambda r: st.floats(-r, r))
    pred = draw(arrays(float, (2, 6, 2), elements=element))
    gt = draw(arrays(float, (2, 6, 2), elements=element))
    n_valid = np.array(draw(st.tuples(st.integers(0, 6), st.integers(5, 6))))
    seed = draw(st.integers(0, 10**6))
    rng = np.random.default_rng(seed)
    m = 24
    owner = rng.integers(0, 2, m)
    about = np.clip(np.where(rng.random((m, 1, 1)) < 0.5, pred[owner], gt[owner]), -52, 52)
    xy = np.concatenate([about[:, :1], about], 1) + rng.normal(0, 2, (m, 7, 2))
    boxes = boxes_from_tracks(
        np.concatenate([xy, rng.uniform(-4, 4, (m, 7, 1))], -1),
        rng.uniform(0.3, 9, (m, 2)),
        (rng.random((m, 7)) < 0.9) & (np.arange(7) <= n_valid[owner, None]),
        category=rng.choice(["vehicle.car", "human.pedestrian.adult"], m),
        visibility=rng.integers(1, 5, m),
        sample=owner,
    )
    return pred, gt, n_valid, boxes


def with_motion(boxes: ObstacleBoxes, seed: int) -> ObstacleBoxes:
    """Boxes seen from a car that moves: drawn in frames of their own, then warped."""
    rng = np.random.default_rng(seed)
    motion = np.cumsum(rng.normal([2, 0, 0], [2, 1, 0.2], (2, 6, 3)), axis=1)
    x, y, yaw = boxes.xy_yaw.T
    there = np.concatenate([np.zeros((2, 1, 3)), motion], 1)[
        boxes.sample, np.maximum(boxes.step, 0)
    ]
    forward, left = y - there[:, 0], -x - there[:, 1]
    cos, sin = np.cos(there[:, 2]), np.sin(there[:, 2])
    own = np.column_stack(
        [cos * forward + sin * left, cos * left - sin * forward, yaw - np.pi / 2 - there[:, 2]]
    )
    return dataclasses.replace(boxes, own_ego_xy_yaw=own, future_ego_xy_yaw=motion)


@pytest.mark.parametrize("name", [*RASTERS, "stp3 warped"])
@given(scene=scenes())
@settings(max_examples=12)
def test_boxes_and_their_rasters_score_alike(name: str, scene: Any) -> None:
    pred, gt, n_valid, boxes = scene
    name, *warped = name.split()
    if warped:
        boxes = with_motion(boxes, 3)
    protocol = get_protocol(name)
    grid = rasterise_boxes(boxes, 2, protocol=protocol)
    assert protocol.raster is not None
    if protocol.raster.missing_frame == "occupied":
        grid[np.arange(6) >= n_valid[:, None]] = 255
    drawn = score_planning(pred, gt, n_valid, protocol=name, boxes=boxes)
    looked_up = score_planning(pred, gt, n_valid, protocol=name, occupancy=grid)
    for attribute in (*FLAGS.values(), "gt_collision_sample"):
        assert np.array_equal(getattr(drawn, attribute), getattr(looked_up, attribute)), attribute


def parked(*places: tuple[float, float], step: int | None = None) -> ObstacleBoxes:
    """Cars of 2 x 4 m that point ahead, at every step or only at one."""
    alive = np.ones((len(places), 7), bool) if step is None else np.arange(7) == step
    xy_yaw = np.array([(x, y, np.pi / 2) for x, y in places])
    return boxes_from_tracks(
        np.broadcast_to(xy_yaw[:, None], (len(places), 7, 3)),
        np.tile([2.0, 4.0], (len(places), 1)),
        np.broadcast_to(alive, (len(places), 7)),
        category=["vehicle.car"] * len(places),
        visibility=np.full(len(places), 4),
    )


def exact(pred: np.ndarray, gt: np.ndarray, n_valid: int, boxes: ObstacleBoxes) -> PlanningScores:
    return score_planning(pred[None], gt[None], np.array([n_valid]), protocol="exact", boxes=boxes)


def straight(step_m: float) -> np.ndarray:
    return np.stack([np.zeros(6), np.arange(1, 7) * step_m], -1)


def test_exact_by_hand() -> None:
    # The car parked at y = 20 reaches from 18 to 22 m; the footprint from 1.542 m behind the
    # waypoint to 2.542 m ahead of it: driving 4 m a step it overlaps at 16 and 20 m, not at 24.
    # The recorded drive stands still.
    scores = exact(straight(4), np.zeros((6, 2)), 6, parked((0, 20)))
    assert scores.box_collision is not None
    assert scores.box_collision[0].tolist() == [False, False, False, True, True, False]
    table = scores.table()
    assert table["collision"] == {"1s": 0, "2s": 1, "3s": 0, "avg": 1 / 3}
    assert table["any_up_to"]["collision"] == {"1s": 0, "2s": 1, "3s": 1, "avg": 2 / 3}
    assert table["l2_m"] == {"1s": 8, "2s": 16, "3s": 24, "avg": 16}
    assert table["any_up_to"]["l2_m"] == {"1s": 6, "2s": 10, "3s": 14, "avg": 10}
    assert scores.point_collision is None
    assert "point_collision" not in table


def test_exact_leaves_out_steps_at_which_the_recorded_drive_collides() -> None:
    # The recorded drive overlaps the parked car from 16 m on; those steps count for nobody.
    scores = exact(np.zeros((6, 2)), straight(4), 6, parked((0, 20), (0, 1)))
    counts = scores.counts()
    assert counts["gt_collision_steps"] == 2 + 1  # steps 4, 5, and step 1 against the second car
    assert counts["collision_steps"] == 3
    assert counts["l2_steps"] == 6
    table = scores.table()
    assert np.isnan(table["collision"]["2s"])
    assert table["collision"]["3s"] == 1
    assert table["any_up_to"]["collision"]["2s"] == 1


def test_exact_counts_existing_steps_only() -> None:
    scores = exact(straight(4), straight(4) + 1, 3, parked((0, 20)))
    assert scores.exists[0].tolist() == [True] * 3 + [False] * 3
    table = scores.table()
    assert table["collision"]["1s"] == 0
    assert np.isnan(table["collision"]["2s"])
    assert table["l2_m"]["1s"] == pytest.approx(np.sqrt(2))
    assert scores.l2_m[0, 3:].tolist() == [0, 0, 0]


def test_exact_does_not_score_a_sample_without_a_future() -> None:
    scores = exact(straight(4), straight(4), 0, parked((0, 20)))
    assert scores.scored.tolist() == [False]
    assert np.isnan(scores.l2_m).all()
    assert np.isnan(scores.table()["l2_m"]["avg"])


def test_exact_touching_is_no_collision() -> None:
    # The front of the standing car is 0.5 + 2.042 m ahead.
    for gap, expected in ((0.0, False), (-0.001, True)):
        boxes = parked((0, 2.542 + 2 + gap))
        scores = exact(np.zeros((6, 2)), straight(0) + (50.0, 0), 6, boxes)
        assert scores.box_collision is not None
        assert scores.box_collision.all() == expected


def test_exact_turns_with_the_car() -> None:
    # Turning right at the end brings the front over a car beside the path.
    turn = np.array([[0.0, 2], [0, 4], [0, 6], [0, 8], [0, 10], [2, 10]])
    beside = parked((4.5, 11.0), step=6)
    away = np.zeros((6, 2)) - 30
    turned = exact(turn, away, 6, beside)
    ahead = exact(np.where(turn == 2, 0, turn) + turn * 0, away, 6, beside)
    assert turned.box_collision is not None
    assert ahead.box_collision is not None
    assert turned.box_collision[0].tolist() == [False] * 5 + [True]
    assert not ahead.box_collision.any()


@given(scene=scenes())
@settings(max_examples=25)
def test_the_recorded_drive_never_collides_with_what_counts(scene: Any) -> None:
    _, gt, n_valid, boxes = scene
    for name in ("exact", "uniad", "vad", "sparsedrive", "stp3"):
        scores = score_planning(gt, gt, n_valid, protocol=name, boxes=boxes)
        assert scores.box_collision is not None
        assert not scores.box_collision.any()
        assert np.nansum(scores.l2_m) == 0


def test_a_step_is_cleared_not_left_out_by_the_published_protocols() -> None:
    boxes = parked((0, 20))
    pred = gt = straight(4)
    scores = score_planning(pred[None], gt[None], np.array([6]), protocol="uniad", boxes=boxes)
    assert scores.gt_collision is not None
    assert scores.gt_collision[0].sum() == 2
    assert scores.table()["collision"]["avg"] == 0
    assert scores.counts()["collision_steps"] == 6


def test_missing_steps_are_zero_in_uniad_and_absent_from_exact() -> None:
    pred = np.stack([straight(4), straight(4)])
    n_valid = np.array([6, 1])
    uniad = score_planning(pred, pred + (0, 1), n_valid, protocol="uniad").table()
    exact_table = score_planning(pred, pred + (0, 1), n_valid, protocol="exact").table()
    assert uniad["l2_m"]["3s"] == pytest.approx(0.5)
    assert exact_table["l2_m"]["3s"] == pytest.approx(1)
    assert uniad["cumulative"]["l2_m"]["1s"] == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("n_past", "scored"), [(None, [True, True, False]), ([2, 1, 2], [True, False, False])]
)
def test_stp3_needs_two_past_keyframes(n_past: list[int] | None, scored: list[bool]) -> None:
    pred = np.zeros((3, 6, 2))
    past = None if n_past is None else np.array(n_past)
    scores = score_planning(pred, pred, np.array([6, 6, 5]), protocol="stp3", n_past=past)
    assert scores.scored.tolist() == scored
    assert ("past:unchecked" in scores.signature) == (n_past is None)


def test_without_obstacles_collisions_are_not_available() -> None:
    scores = score_planning(np.zeros((1, 6, 2)), np.zeros((1, 6, 2)), np.array([6]), protocol="vad")
    assert scores.box_collision is None
    assert scores.table()["collision"] is None
    assert scores.not_available == ("collision", "point_collision")


def test_a_protocol_may_be_changed_and_says_so() -> None:
    protocol = dataclasses.replace(get_protocol("uniad"), name="mine", missing_future="hold")
    pred = np.zeros((1, 6, 2))
    scores = score_planning(pred, pred, np.array([6]), protocol=protocol)
    assert "protocol:mine" in scores.signature
    assert "missing_future:hold" in scores.signature


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="stp3"):
        score_planning(np.zeros((1, 6, 2)), np.zeros((1, 6, 2)), np.array([6]), protocol="stp-3")
