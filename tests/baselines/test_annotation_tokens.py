from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odvla_bench.baselines.opendrivevla.annotation_tokens import (
    SETTINGS,
    MapVectors,
    annotation_features,
    map_tokens,
    scene_tokens,
)
from odvla_bench.baselines.opendrivevla.features import FeatureStore, write_scene
from odvla_bench.baselines.opendrivevla.perception.inputs import Annotations
from odvla_bench.errors import InputError


def agents(*positions: tuple[float, float], velocity: tuple[float, float] = (0, 0)) -> Annotations:
    count = len(positions)
    xy = np.array(positions, np.float64).reshape(count, 2)
    rest = np.tile([-1.0, 4.5, 1.9, 1.6, 0.5], (count, 1))
    return Annotations(
        boxes=np.concatenate([xy, rest], 1),
        velocity_mps=np.tile(np.array(velocity, np.float64), (count, 1)),
        labels=np.zeros(count, np.int64),
        instance_ids=np.arange(count) + 100,
    )


ROAD = MapVectors(
    polylines=[np.array([[5.0, -20], [5, 20]]), np.array([[-2.0, 0], [-2, 10], [8, 10]])],
    labels=np.array([0, 2]),
    drivable=np.arange(64 * 64).reshape(64, 64) < 64 * 32,
)
NO_ROAD = MapVectors([], np.zeros(0, np.int64))


def test_shapes_and_order() -> None:
    made = annotation_features(agents((30, 0), (0, 10), (0, 70)), ROAD)
    assert made.scene.shape == (90, 256)
    assert made.agents.shape == (2, 256)
    assert made.map.shape == (3, 256)
    assert made.instance_id.tolist() == [101, 100]
    assert made.boxes.shape == (2, 9)
    assert made.map[:, :3].tolist()[:2] == [[0, 0, 1], [1, 0, 0]]
    assert made.map[2].reshape(16, 16).tolist() == [[1.0] * 16] * 8 + [[0.0] * 16] * 8


def test_an_empty_keyframe_still_has_scene_and_drivable_tokens() -> None:
    made = annotation_features(agents(), NO_ROAD)
    assert (made.scene.shape, made.agents.shape, made.map.shape) == ((90, 256), (0, 256), (1, 256))


def test_no_more_tokens_than_the_perception_gives() -> None:
    made = annotation_features(agents(*[(1.0, i / 10) for i in range(310)]), NO_ROAD)
    assert len(made.agents) == 299
    lines = [np.array([[i, 0.0], [i, 1.0]]) for i in range(120)]
    assert len(map_tokens(MapVectors(lines, np.zeros(120, np.int64)))) == 101


@pytest.mark.parametrize(
    ("position", "cell"),
    [
        pytest.param((0.0, 50.0), 0 * 15 + 2, id="far ahead: middle of the front camera's top"),
        pytest.param((0.0, 20.0), 0 * 15 + 7, id="ahead"),
        pytest.param((0.5, -5.0), 3 * 15 + 12, id="close behind"),
        pytest.param((20.0, 11.547), 1 * 15 + 7, id="60 degrees to the right"),
        pytest.param((-20.0, 11.547), 2 * 15 + 7, id="60 degrees to the left"),
        pytest.param((-20.0, -11.547), 4 * 15 + 7, id="back left"),
        pytest.param((20.0, -11.547), 5 * 15 + 7, id="back right"),
    ],
)
def test_an_agent_shows_in_one_scene_cell(position: tuple[float, float], cell: int) -> None:
    one, none = agents(position), agents()
    changed = (
        scene_tokens(one.boxes, one.velocity_mps, one.labels)
        != scene_tokens(none.boxes, none.velocity_mps, none.labels)
    ).any(1)
    assert np.flatnonzero(changed).tolist() == [cell]


coordinate = st.floats(-61, 61, width=32)


@given(coordinate, coordinate, st.floats(-30, 30, width=32))
@settings(max_examples=50)
def test_position_and_velocity_can_be_read_off_a_token(x: float, y: float, speed: float) -> None:
    token = annotation_features(agents((x, y), velocity=(0, speed)), NO_ROAD).agents[0]
    values = token[12:].reshape(-1)[: 8 * 17].reshape(8, 17)
    scales = np.array([61.2, 61.2, 10, 20, 20, 20, 40, 40])
    expected = [x, y, -1.0, 4.5, 1.9, 1.6, 0, speed]
    np.testing.assert_allclose(values[:, 0] * scales, expected, atol=1e-4)
    np.testing.assert_allclose(values[:, 1:9] ** 2 + values[:, 9:] ** 2, 1, atol=1e-5)
    assert token[:12].tolist() == pytest.approx([1, *[0] * 9, np.cos(0.5), np.sin(0.5)])


def test_the_direction_of_a_line_is_kept() -> None:
    forward = np.array([[0.0, 0], [0, 12]])
    one, other = (
        map_tokens(MapVectors([line], np.zeros(1, np.int64)))[0]
        for line in (forward, forward[::-1])
    )
    assert not np.allclose(one, other)
    again = map_tokens(MapVectors([np.array([[0.0, 0], [0, 1], [0, 12]])], np.zeros(1, np.int64)))
    np.testing.assert_allclose(again[0], one, atol=1e-5)


def test_stored_tokens_say_that_they_are_privileged(tmp_path) -> None:
    made = annotation_features(agents((3, 4)), ROAD)
    write_scene(tmp_path, "s", SETTINGS, {"k": made})
    store = FeatureStore(tmp_path)
    assert store.settings.privileged
    assert store.settings.signature == "tokens:annotations|encoder:waves-1|privileged"
    np.testing.assert_array_equal(store["k"].agents, made.agents)


def test_faulty_vectors_are_refused() -> None:
    with pytest.raises(InputError, match="1 polylines, but 0 labels"):
        MapVectors([np.zeros((2, 2))], np.zeros(0, np.int64))
    with pytest.raises(InputError, match=r"drivable grid is \(20, 16\)"):
        MapVectors([], np.zeros(0, np.int64), np.zeros((20, 16), bool))
    with pytest.raises(InputError, match=r"`boxes` has shape \(2, 7\), but there are 1 labels"):
        Annotations(np.zeros((2, 7)), np.zeros((1, 2)), np.zeros(1, np.int64), np.zeros(1, int))
