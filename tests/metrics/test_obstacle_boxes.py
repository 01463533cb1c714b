import numpy as np

from odvla_bench.geometry import Pose, pose_from_quaternion
from odvla_bench.metrics import ObstacleBoxes, boxes_from_global, boxes_from_tracks

QUARTER_RIGHT = np.array([np.sqrt(0.5), 0, 0, -np.sqrt(0.5)])


def test_tracks_become_one_row_a_box() -> None:
    alive = np.zeros((2, 7), bool)
    alive[0, [0, 3]] = alive[1, 6] = True
    xy_yaw = np.arange(42.0).reshape(2, 7, 3)
    boxes = boxes_from_tracks(
        xy_yaw,
        np.array([[1.0, 2], [3, 4]]),
        alive,
        category=["vehicle.car", "animal"],
        visibility=np.array([1, 4]),
        sample=np.array([5, 2]),
        n_points=np.array([0, 9]),
    )
    assert boxes.sample.tolist() == [5, 5, 2]
    assert boxes.step.tolist() == [0, 3, 6]
    assert boxes.xy_yaw.tolist() == [
        xy_yaw[0, 0].tolist(),
        xy_yaw[0, 3].tolist(),
        xy_yaw[1, 6].tolist(),
    ]
    assert [boxes.category_names[c] for c in boxes.category] == ["vehicle.car"] * 2 + ["animal"]
    assert boxes.n_points.tolist() == [0, 0, 9]
    assert boxes.visibility.tolist() == [1, 1, 4]


def driving_north(nod_rad: float = 0.0) -> tuple[Pose, Pose]:
    """A car that drives 2 m north a step from (100, 200) at t0 and nods at step 3; lidar ahead."""
    half = np.where(np.arange(-2, 7) == 3, nod_rad / 2, 0.0)
    cos, sin = np.cos(half) * np.sqrt(0.5), np.sin(half) * np.sqrt(0.5)
    north_then_nod = np.column_stack([cos, -sin, sin, cos])
    position = np.column_stack([np.full(9, 100.0), 200 + 2.0 * np.arange(-2, 7), np.zeros(9)])
    ego = pose_from_quaternion(north_then_nod[None], position[None])
    return ego, pose_from_quaternion(QUARTER_RIGHT, np.array([1.0, 0.0, 1.8]))


def one_box(nod_rad: float = 0.0) -> ObstacleBoxes:
    """A box 11 m north and 3 m east of the car at t0 that points north."""
    ego, lidar = driving_north(nod_rad)
    return boxes_from_global(
        np.array([[103.0, 211.0, 0.8]]),
        np.array([np.pi / 2]),
        np.array([[2.0, 4.5, 1.6]]),
        sample=np.array([0]),
        step=np.array([3]),
        instance=np.array([1]),
        category=np.array([0]),
        category_names=("vehicle.car",),
        visibility=np.array([4]),
        n_points=np.array([3]),
        global_from_ego=ego,
        ego_from_lidar=lidar,
    )


def test_a_box_of_the_map_in_every_frame_it_is_drawn_in() -> None:
    boxes = one_box()
    np.testing.assert_allclose(boxes.xy_yaw, [[3, 10, np.pi / 2]], atol=1e-9)
    np.testing.assert_allclose(boxes.bottom_xy_m, [[3, 10]], atol=1e-9)
    # Three steps later the car is 6 m on: the box is 5 m ahead of it and 3 m to the right.
    np.testing.assert_allclose(boxes.own_ego_xy_yaw, [[5, -3, 0]], atol=1e-9)
    assert boxes.future_ego_xy_yaw is not None
    np.testing.assert_allclose(boxes.future_ego_xy_yaw[0, 2], [6, 0, 0], atol=1e-9)
    np.testing.assert_allclose(boxes.lidar_in_ego_m, [[1, 0]])


def test_a_nodding_car_places_the_bottom_elsewhere() -> None:
    boxes = one_box(nod_rad=0.05)
    assert boxes.bottom_xy_m is not None
    shift = boxes.bottom_xy_m - boxes.xy_yaw[:, :2]
    # Down along the lidar, whose upper end leans forward, leads 0.8 * sin(0.05) m back.
    np.testing.assert_allclose(shift, [[0, -0.8 * np.sin(0.05)]], atol=1e-9)


def test_keyframes_without_pose_do_not_disturb_the_others() -> None:
    boxes = one_box()
    ego, lidar = driving_north()
    ego.rotation[0, 7:] = np.nan
    ego.translation_m[0, 7:] = np.nan
    columns = {
        name: getattr(boxes, name)
        for name in ("sample", "step", "instance", "category", "visibility", "n_points")
    }
    gappy = boxes_from_global(
        np.array([[103.0, 211.0, 0.8]]),
        np.array([np.pi / 2]),
        np.array([[2.0, 4.5, 1.6]]),
        category_names=boxes.category_names,
        global_from_ego=ego,
        ego_from_lidar=lidar,
        **columns,
    )
    np.testing.assert_allclose(gappy.xy_yaw, boxes.xy_yaw)
    assert gappy.future_ego_xy_yaw is not None
    assert gappy.future_ego_xy_yaw[0, 5].tolist() == [0, 0, 0]
