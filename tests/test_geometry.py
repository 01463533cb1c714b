import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from odvla_bench import geometry as g

coordinates = st.floats(-1e3, 1e3, allow_subnormal=False)
poses = st.builds(
    lambda q, t: g.pose_from_quaternion(q, t),
    arrays(float, 4, elements=st.floats(-1, 1)).filter(lambda q: np.linalg.norm(q) > 0.1),
    arrays(float, 3, elements=coordinates),
)


def test_quarter_turn_left_carries_forward_to_left() -> None:
    pose = g.pose_from_quaternion(
        np.array([np.sqrt(0.5), 0, 0, np.sqrt(0.5)]), np.array([1.0, 2, 3])
    )
    np.testing.assert_allclose(
        g.transform_points(pose, np.array([1.0, 0, 0])), [1, 3, 3], atol=1e-12
    )
    np.testing.assert_allclose(g.yaw_of(pose.rotation), np.pi / 2)


def test_yaw_has_the_leading_shape_of_the_rotations() -> None:
    rotations = np.broadcast_to(np.eye(3), (4, 5, 3, 3))
    assert np.shape(g.yaw_of(rotations[0, 0])) == ()
    assert np.shape(g.yaw_of(rotations)) == (4, 5)
    np.testing.assert_allclose(g.angle_of(np.array([[0.0, 2.0], [-3.0, 0.0]])), [np.pi / 2, np.pi])


@given(poses, arrays(float, 3, elements=coordinates))
def test_inverse_undoes_a_pose(pose: g.Pose, point: np.ndarray) -> None:
    there = g.transform_points(pose, point)
    np.testing.assert_allclose(g.transform_points(g.invert(pose), there), point, atol=1e-9)


@given(poses, poses, arrays(float, 3, elements=coordinates))
def test_composition_applies_the_inner_pose_first(a: g.Pose, b: g.Pose, point: np.ndarray) -> None:
    stepwise = g.transform_points(a, g.transform_points(b, point))
    np.testing.assert_allclose(g.transform_points(g.compose(a, b), point), stepwise, atol=1e-9)


@given(st.floats(-50, 50))
def test_wrapped_angles_are_the_same_direction(angle: float) -> None:
    wrapped = g.wrap_angle(np.array(angle))
    assert -np.pi <= wrapped < np.pi
    np.testing.assert_allclose(np.exp(1j * wrapped), np.exp(1j * angle), atol=1e-12)


def test_corners_run_counter_clockwise_from_front_left() -> None:
    corners = g.box_corners(
        np.array([10.0, 5.0]), np.array(np.pi / 2), np.array(4.0), np.array(2.0)
    )
    np.testing.assert_allclose(corners, [[9, 7], [9, 3], [11, 3], [11, 7]], atol=1e-12)
