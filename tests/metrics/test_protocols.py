import dataclasses

import pytest

from odvla_bench.errors import UnknownNameError
from odvla_bench.metrics.protocols import PROTOCOLS, ObstacleRule, get_protocol

NAMES = list(PROTOCOLS)


def test_every_published_protocol_is_there() -> None:
    assert set(NAMES) == {
        "stp3",
        "uniad",
        "vad",
        "opendrivevla",
        "opendrivevla-all",
        "agent-driver-uniad",
        "agent-driver-stp3",
        "sparsedrive",
        "bev-planner",
        "omnidrive",
        "exact",
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_bears_its_name_and_says_what_is_wrong_with_it(name: str) -> None:
    protocol = get_protocol(name)
    assert protocol.name == name
    assert bool(protocol.known_defects) == (name != "exact")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'uniad'"):
        get_protocol("uniadd")


def test_choices_tell_all_presets_apart() -> None:
    assert len({tuple(get_protocol(name).choices()) for name in NAMES}) == len(NAMES)


def test_choices_name_every_field_that_can_move_a_number() -> None:
    protocol = get_protocol("vad")
    named = {name.split(".")[0] for name, _ in protocol.choices()}
    fields = {field.name for field in dataclasses.fields(protocol)}
    assert fields - named == {"name", "source", "known_defects"}
    assert ("obstacles.half_range_m", "15.0+30.0") in set(protocol.choices())


@pytest.mark.parametrize(
    ("category", "expected"),
    [("vehicle.car", True), ("vehicle.emergency.police", True), ("human.pedestrian.child", False)],
)
def test_a_star_accepts_by_prefix(category: str, expected: bool) -> None:
    assert ObstacleRule(("vehicle.*",)).accepts(category) is expected


@pytest.mark.parametrize(
    ("name", "rows", "cols"),
    [
        ("uniad", "forward", "right"),
        ("opendrivevla", "forward", "left"),
        ("opendrivevla-all", "forward", "left"),
        ("vad", "backward", "right"),
        ("stp3", "forward", "left"),
        ("omnidrive", "left", "forward"),
    ],
)
def test_axes_of_the_grid_a_metric_is_given(name: str, rows: str, cols: str) -> None:
    raster = get_protocol(name).raster
    assert raster is not None
    assert (raster.given_rows, raster.given_cols) == (rows, cols)
