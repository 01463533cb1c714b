import cv2
import numpy as np
import pytest
from factories.planning import flipped, unpacked

from odvla_bench.errors import InputError
from odvla_bench.metrics.boxes import boxes_from_tracks
from odvla_bench.metrics.obstacles import ObstacleBoxes
from odvla_bench.metrics.occupancy import (
    draw,
    rasterise_boxes,
    rasterise_obstacles,
    rasterise_polylines,
    warp_source,
)
from odvla_bench.metrics.protocols import get_protocol

Arrays = dict[str, np.ndarray]


@pytest.mark.golden
def test_polygons_are_filled_as_opencv_4_11_and_later_fill_them(fillpoly: Arrays) -> None:
    expected = unpacked(fillpoly["mask_cv_ge_4_11"])
    canvases = np.zeros_like(expected)
    draw(canvases, np.arange(len(canvases)), fillpoly["quads"].astype(np.int32), 1)
    assert np.array_equal(canvases, expected)


@pytest.mark.golden
def test_drawing_on_bytes_equals_drawing_on_doubles(fillpoly: Arrays) -> None:
    doubles, bytes_ = np.zeros((200, 200)), np.zeros((1, 200, 200), np.uint8)
    for quad in fillpoly["quads"].astype(np.int32)[:500]:
        cv2.fillPoly(doubles, [quad], 1.0)
        draw(bytes_, np.array([0]), quad[None], 1)
        assert np.array_equal(doubles, bytes_[0])
        doubles[:] = bytes_[:] = 0


@pytest.mark.golden
def test_wiping_with_zero_leaves_nothing(fillpoly: Arrays) -> None:
    canvas, quads = np.zeros((1, 200, 200), np.uint8), fillpoly["quads"].astype(np.int32)
    slot = np.zeros(len(quads), int)
    draw(canvas, slot, quads, 1)
    assert canvas.any()
    draw(canvas, slot, quads, 0)
    assert not canvas.any()


@pytest.mark.golden
@pytest.mark.parametrize(
    ("protocol", "key", "flips"),
    [
        ("uniad", "occ_uniad", {}),
        ("agent-driver-uniad", "occ_uniad", {}),
        ("opendrivevla", "occ_uniad", {"cols": True}),
        ("stp3", "occ_stp3", {}),
        ("vad", "occ_vad", {}),
        ("opendrivevla-all", "occ_vad", {"rows": True, "cols": True}),
        ("agent-driver-stp3", "occ_vad", {"rows": True, "cols": True}),
    ],
)
def test_half_metre_grids_equal_the_originals(
    protocol: str, key: str, flips: dict[str, bool], cases: Arrays, case_boxes: ObstacleBoxes
) -> None:
    got = rasterise_boxes(case_boxes, len(cases["n_valid"]), protocol=protocol)
    expected = flipped(cases[key], **flips)
    # UniAD leaves missing frames empty before it fills them; the objects go on being annotated.
    drawn = np.arange(6) < cases["n_valid"][:, None] if key == "occ_uniad" else np.True_
    differs = ((got != expected).any((-1, -2))) & drawn
    assert differs.sum() == 0
    assert (expected != 0).any()


@pytest.mark.golden
@pytest.mark.parametrize(
    ("protocol", "key", "first"), [("bev-planner", "bevp_occ", 0), ("omnidrive", "omni_occ", 1)]
)
def test_fine_grids_equal_the_originals(
    protocol: str, key: str, first: int, fine: Arrays, fine_boxes: ObstacleBoxes
) -> None:
    got = rasterise_boxes(fine_boxes, len(fine["tag"]), protocol=protocol)
    assert np.array_equal(got, fine[key][:, first:])


@pytest.mark.golden
def test_boundary_lines_equal_the_original(fine: Arrays) -> None:
    spans = zip(fine["line_offset"], fine["line_offset"][1:], strict=False)
    for case, (start, stop) in enumerate(spans):
        is_boundary = fine["line_label"][start:stop] == 2
        got = rasterise_polylines(fine["line_pts"][start:stop][is_boundary])
        assert np.array_equal(got, fine["bevp_boundary"][case])


@pytest.mark.golden
def test_one_sample_at_a_time_gives_the_same(cases: Arrays) -> None:
    start, stop = cases["obj_offset"][5:7]
    objects = slice(start, stop)
    got = rasterise_obstacles(
        cases["obj_xyyaw"][objects],
        cases["obj_wl"][objects],
        cases["obj_alive"][objects],
        cases["cat_names"][cases["obj_cat"][objects]],
        cases["obj_vis"][objects],
        protocol="vad",
    )
    assert got.shape == (6, 200, 25)
    assert np.array_equal(got, cases["occ_vad"][5])


def cells_off(got: np.ndarray, expected: np.ndarray) -> np.ndarray:
    return (unpacked(got) != unpacked(expected)).sum((-1, -2))


@pytest.mark.golden
def test_sequences_from_global_boxes_and_poses(
    sequences: Arrays, sequence_boxes: ObstacleBoxes
) -> None:
    n = len(sequences["n_frames"])
    uniad = cells_off(
        rasterise_boxes(sequence_boxes, n, protocol="uniad"), sequences["uniad_seg"][:, 1:]
    )
    uniad = uniad[sequences["uniad_frame_valid"][:, 1:]]
    # The original carries boxes through float32 coordinates of a kilometre: a corner on a tie
    # moves one cell, a border of a few cells with it, in 7 of 217 frames.
    assert (uniad > 0).sum() <= 7
    assert uniad.max() <= 8
    vad = cells_off(rasterise_boxes(sequence_boxes, n, protocol="vad"), sequences["vad_seg"])
    assert (vad > 0).sum() <= 1
    assert vad.max() <= 6


@pytest.mark.golden
def test_sequences_warped_to_the_present(sequences: Arrays, sequence_boxes: ObstacleBoxes) -> None:
    complete = sequences["n_frames"] == 9
    expected = sequences["stp3_seg_warped"] | sequences["stp3_ped_warped"]
    got = rasterise_boxes(sequence_boxes, len(complete), protocol="stp3")
    off = cells_off(got, expected[:, 1:])[complete]
    assert off.max() <= 3
    assert off.sum() <= 8


def test_a_warp_of_no_motion_reads_each_cell_itself() -> None:
    raster = get_protocol("stp3").raster
    assert raster is not None
    rows, cols = np.arange(200.0)[None, :, None], np.arange(200.0)[None, None]
    got = warp_source(rows, cols, np.zeros((1, 3)), raster)
    np.testing.assert_allclose(got[0], np.broadcast_to(rows, (1, 200, 200)), atol=1e-9)
    np.testing.assert_allclose(got[1], np.broadcast_to(cols, (1, 200, 200)), atol=1e-9)


def test_a_warp_ahead_reads_from_behind() -> None:
    # The car has moved 5 m ahead and 1 m to the left without turning: what is 10 m ahead of it
    # at t0 is 5 m ahead of it then; sideways the original shifts the wrong way.
    raster = get_protocol("stp3").raster
    assert raster is not None
    row, col = warp_source(
        np.full((1, 1, 1), 120.0), np.full((1, 1, 1), 100.0), np.array([[5.0, 1.0, 0.0]]), raster
    )
    assert (row.item(), col.item()) == pytest.approx((110, 102))


def one_box(x: float, y: float, yaw: float) -> ObstacleBoxes:
    return boxes_from_tracks(
        np.broadcast_to([x, y, yaw], (1, 7, 3)),
        np.array([[2.0, 4.0]]),
        np.ones((1, 7), bool),
        category=["vehicle.car"],
        visibility=np.array([4]),
    )


@pytest.mark.parametrize(
    ("protocol", "rows", "cols"),
    [
        # A car 10 m ahead and 5 m to the right, 4 m long and 2 m wide, points ahead.
        pytest.param("uniad", (116, 124), (108, 112), id="forward, right"),
        pytest.param("opendrivevla", (116, 124), (87, 91), id="mirrored columns"),
        pytest.param("vad", (76, 84), (108, 112), id="backward, right"),
        pytest.param("opendrivevla-all", (115, 123), (87, 91), id="mirrored both"),
        pytest.param("stp3", (118, 126), (88, 92), id="ego, forward, left"),
        pytest.param("omnidrive", (440, 460), (589, 629), id="ego, left, forward"),
    ],
)
def test_where_a_box_is_drawn(protocol: str, rows: tuple[int, int], cols: tuple[int, int]) -> None:
    grid = unpacked(rasterise_boxes(one_box(5, 10, np.pi / 2), 1, protocol=protocol))[0, 0]
    filled = np.argwhere(grid)
    assert (filled[:, 0].min(), filled[:, 0].max()) == rows
    assert (filled[:, 1].min(), filled[:, 1].max()) == cols
    assert grid[rows[0] : rows[1] + 1, cols[0] : cols[1] + 1].all()


def test_a_box_beyond_the_grid_draws_nothing() -> None:
    assert not rasterise_boxes(one_box(1e6, 0, 0.3), 1, protocol="uniad").any()


def test_polygon_protocols_have_no_occupancy() -> None:
    with pytest.raises(InputError, match="'exact' intersects boxes as polygons"):
        rasterise_boxes(one_box(0, 0, 0), 1, protocol="exact")
