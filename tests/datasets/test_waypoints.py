from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from odvla_bench.datasets.released_parser import RULES, parse_released
from odvla_bench.datasets.waypoint_codecs import MAX_ANSWER_CHARS, BinCodec
from odvla_bench.datasets.waypoints import WaypointCodec, get_codec
from odvla_bench.errors import InputError, OdvlaError, UnknownNameError

GOLDEN = json.loads((Path(__file__).parents[1] / "goldens/released_parser.json").read_text("utf-8"))
PLAN_X = [-0.004, 0.11, 0.5, 1.25, -2.0, 0.0]
PLAN_Y = [4.126, 8.3, 12.0, 16.0, 20.004, 24.5]
PLAN_TEXT = "[(-0.00,4.13),(0.11,8.30),(0.50,12.00),(1.25,16.00),(-2.00,20.00),(0.00,24.50)]"
DELTA_TEXT = "[(0.00,4.13),(0.11,4.17),(0.39,3.70),(0.75,4.00),(-3.25,4.00),(2.00,4.50)]"

any_plan = arrays(np.float64, (6, 2), elements=st.floats(allow_nan=False, allow_infinity=False))
road_plan = arrays(np.float64, (6, 2), elements=st.floats(-100, 100))


def round_trip(codec: WaypointCodec, plan: np.ndarray) -> np.ndarray:
    decoded = codec.decode(codec.encode(plan[:, 0], plan[:, 1]))
    assert (decoded.status, decoded.reason) == ("strict", "")
    return np.stack([decoded.x_m, decoded.y_m], -1)


@pytest.mark.parametrize(("name", "text"), [("text", PLAN_TEXT), ("delta", DELTA_TEXT)])
def test_a_plan_is_written_as_the_paper_writes_it(name: str, text: str) -> None:
    assert get_codec(name).encode(PLAN_X, PLAN_Y) == text
    assert get_codec(name).tokens() == ()


def test_bins_are_tokens_of_the_vocabulary() -> None:
    codec = BinCodec(n_steps=2, x_range_m=(-2, 2), y_range_m=(0, 12), x_bins=4, y_bins=12)
    text = codec.encode([-2.0, 1.5], [0.99, 12.0])
    assert text == "<x_0><y_00><x_3><y_11>"
    np.testing.assert_array_equal(codec.decode(text).x_m, [-1.5, 1.5])
    np.testing.assert_array_equal(codec.decode(text).y_m, [0.5, 11.5])
    assert codec.resolution_m == (1.0, 1.0)
    assert codec.tokens()[:5] == ("<x_0>", "<x_1>", "<x_2>", "<x_3>", "<y_00>")
    assert len(codec.tokens()) == 16


def test_bins_clip_to_the_range_and_tell() -> None:
    codec = BinCodec(n_steps=2, x_range_m=(-2, 2), y_range_m=(0, 12), x_bins=4, y_bins=12)
    assert codec.encode([-1e300, 5.0], [-0.1, 1e300]) == "<x_0><y_00><x_3><y_11>"
    np.testing.assert_array_equal(
        codec.clipped([[-2.0, 12.0], [2.1, -0.1]]), [[False, False], [True, True]]
    )


@pytest.mark.parametrize("name", ["text", "delta"])
@given(plan=any_plan)
def test_decoding_undoes_encoding_to_half_a_centimetre(name: str, plan: np.ndarray) -> None:
    for decoded, given_ in zip(
        round_trip(get_codec(name), plan).ravel(), plan.ravel(), strict=True
    ):
        half_ulp = Fraction(math.ulp(given_)) / 2
        assert abs(Fraction(decoded) - Fraction(given_)) <= Fraction(1, 200) + half_ulp


@given(plan=any_plan)
def test_delta_and_text_decode_to_the_same_positions(plan: np.ndarray) -> None:
    np.testing.assert_array_equal(
        round_trip(get_codec("delta"), plan), round_trip(get_codec("text"), plan)
    )


@given(
    plan=road_plan,
    low=st.floats(-100, 0),
    extent=st.floats(0.5, 200),
    bins=st.integers(1, 2000),
)
def test_bins_decode_to_half_a_bin(plan: np.ndarray, low: float, extent: float, bins: int) -> None:
    codec = BinCodec(
        x_range_m=(low, low + extent), y_range_m=(low, low + extent), x_bins=bins, y_bins=bins
    )
    inside = np.clip(plan, low, low + extent)
    once = round_trip(codec, plan)
    assert np.abs(once - inside).max() <= codec.resolution_m[0] / 2 + 1e-9
    np.testing.assert_array_equal(round_trip(codec, once), once)


@pytest.mark.parametrize("name", ["text", "delta", "bins"])
@given(plans=arrays(np.float64, (3, 6, 2), elements=st.floats(-9, 60)))
def test_a_batch_is_its_rows(name: str, plans: np.ndarray) -> None:
    codec = get_codec(name)
    texts = codec.encode_batch(plans)
    assert texts == [codec.encode(p[:, 0], p[:, 1]) for p in plans]
    batch = codec.decode_batch([*texts, "nonsense"])
    assert batch.status.tolist() == ["strict"] * 3 + ["failed"]
    assert np.isnan(batch.xy_m[3]).all()
    for row, text in zip(batch.xy_m, texts, strict=False):
        np.testing.assert_array_equal(row[:, 0], codec.decode(text).x_m)
        np.testing.assert_array_equal(row[:, 1], codec.decode(text).y_m)


def test_an_empty_batch_is_empty() -> None:
    assert get_codec("text").encode_batch(np.empty((0, 6, 2))) == []
    assert get_codec("text").decode_batch([]).xy_m.shape == (0, 6, 2)


@pytest.mark.parametrize("name", ["text", "delta", "bins"])
def test_variable_length_leaves_out_steps_that_do_not_exist(name: str) -> None:
    codec = get_codec(name, variable_length=True)
    plans = np.full((2, 6, 2), np.nan)
    plans[0, :2] = [[0.25, 1.25], [0.35, 2.45]]
    plans[1] = 0.05
    texts = codec.encode_batch(plans)
    assert texts[0] == codec.encode([0.25, 0.35], [1.25, 2.45])
    decoded = codec.decode(texts[0])
    assert (decoded.x_m.shape, decoded.status) == ((2,), "strict")
    np.testing.assert_allclose(codec.decode_batch(texts).xy_m, plans, atol=0.0501)
    assert get_codec(name).decode(texts[0]).status == "failed"


GAP = [0.0, math.nan, 1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("variable_length", "x", "y"),
    [
        pytest.param(False, PLAN_X[:5], PLAN_Y[:5], id="too short"),
        pytest.param(True, [*PLAN_X, 1.0], [*PLAN_Y, 1.0], id="too long"),
        pytest.param(True, [], [], id="empty"),
        pytest.param(False, PLAN_X, PLAN_Y[:5], id="unequal"),
        pytest.param(False, [PLAN_X], [PLAN_Y], id="two axes"),
        pytest.param(False, GAP, PLAN_Y, id="NaN"),
        pytest.param(True, GAP, GAP, id="gap"),
        pytest.param(True, [math.nan] * 6, [math.nan] * 6, id="no step"),
        pytest.param(True, PLAN_X, [*PLAN_Y[:5], math.inf], id="infinite"),
        pytest.param(True, PLAN_X, [*PLAN_Y[:5], math.nan], id="half a waypoint"),
    ],
)
def test_what_cannot_be_written_is_refused(
    variable_length: bool, x: list[float], y: list[float]
) -> None:
    with pytest.raises(InputError, match="Waypoints|Trajectory 0"):
        get_codec("text", variable_length=variable_length).encode(x, y)


STRICT = [
    pytest.param(PLAN_TEXT, id="bare"),
    pytest.param(f"<traj_start>{PLAN_TEXT}<traj_end>", id="markers"),
    pytest.param(f"\n <traj_start>{PLAN_TEXT}<traj_end><|im_end|>\n", id="end of turn"),
    pytest.param(f"{PLAN_TEXT} <|im_end|> <|endoftext|>", id="two ends"),
]


@pytest.mark.parametrize("text", STRICT)
@pytest.mark.parametrize("repair", ["none", "released"])
def test_strict_takes_what_the_tokenizer_adds(text: str, repair: str) -> None:
    decoded = get_codec("text", repair=repair).decode(text)
    assert decoded.status == "strict"
    np.testing.assert_array_equal(decoded.x_m, [0, 0.11, 0.5, 1.25, -2, 0])


NOT_STRICT = [
    pytest.param("", id="empty"),
    pytest.param(PLAN_TEXT.replace(",(", ", ("), id="space"),
    pytest.param(f"<traj_start>{PLAN_TEXT}", id="one marker"),
    pytest.param(f"The plan is {PLAN_TEXT}", id="words"),
    pytest.param(PLAN_TEXT.replace("0.11", "0.1"), id="one decimal"),
    pytest.param(PLAN_TEXT.replace("0.11", "0.110"), id="three decimals"),
    pytest.param(PLAN_TEXT.replace("0.11", "+0.11"), id="plus"),
    pytest.param(PLAN_TEXT.replace("0.11", "00.11"), id="leading zero"),
    pytest.param(PLAN_TEXT.replace("0.11", "٠.11"), id="other digits"),
    pytest.param(PLAN_TEXT.replace(",(0.00,24.50)", ""), id="five"),
    pytest.param(PLAN_TEXT.replace("]", ",(0.00,24.50)]"), id="seven"),
    pytest.param(PLAN_TEXT.replace("0.11", "NaN"), id="NaN"),
    pytest.param(PLAN_TEXT.replace("0.11", "9" * 400 + ".00"), id="beyond float"),
    pytest.param("9" * MAX_ANSWER_CHARS + PLAN_TEXT, id="too long"),
]


@pytest.mark.parametrize("text", NOT_STRICT)
@pytest.mark.parametrize("name", ["text", "delta", "bins"])
def test_strict_takes_nothing_else(name: str, text: str) -> None:
    decoded = get_codec(name).decode(text)
    assert decoded.status == "failed"
    assert decoded.reason
    assert np.isnan([decoded.x_m, decoded.y_m]).all()
    assert decoded.x_m.shape == (6,)


@pytest.mark.parametrize(
    "text",
    ["<x_0><y_0><x_4><y_0>", "<x_0><y_0>", "<x_0><x_0><x_0><y_0>", "<x_00><y_0><x_0><y_0>"],
    ids=["unknown token", "too few", "wrong axis", "wrong width"],
)
def test_bins_take_only_their_own_tokens(text: str) -> None:
    assert BinCodec(n_steps=2, x_bins=4, y_bins=4).decode(text).status == "failed"


@given(st.text("0123456789.,-+()[]<>|_eEnNx y\n我١"))
def test_decoding_never_raises(text: str) -> None:
    for codec in (get_codec("text", repair="released"), get_codec("delta"), get_codec("bins")):
        decoded = codec.decode(text)
        finite = np.isfinite(decoded.x_m).all()
        assert finite == (decoded.status != "failed")


REPAIRS = [
    ("letters removed", "(1.0,2.0) go", [(1.0, 2.0)]),
    ("letters removed", "(1e5,2.0)", [(15.0, 2.0)]),
    ("Chinese characters removed", "(1.0米,2.0)", [(1.0, 2.0)]),
    ("repeated points after a number joined", "(1...5,2..0)", [(1.5, 2.0)]),
    ("angle brackets removed", "(<1.0>,2.0)", [(1.0, 2.0)]),
    ("comma put between two numbers", "(1.0 2.0)", [(1.0, 2.0)]),
    ("minus between two numbers read as comma", "(1.0-2.0)", [(1.0, 2.0)]),
    ("third coordinate dropped", "(-1.0, 2.0, 3.0)", [(-1.0, 2.0)]),
    ("white space removed", "[ 1 2.0 ,3\n]", [(12.0, 3.0)]),
    ("second decimal point removed", "(1.2.3,4.0)", [(1.23, 4.0)]),
    ("double decimal point joined", "(1.<.5,2.0)", [(1.5, 2.0)]),
    ("minus after a decimal point removed", "(1.-5,2.0)", [(1.5, 2.0)]),
]


@pytest.mark.parametrize(
    ("rule", "text", "points"), REPAIRS, ids=[f"{r[0]} {r[1]}" for r in REPAIRS]
)
def test_released_repairs(rule: str, text: str, points: list[tuple[float, float]]) -> None:
    found, repairs = parse_released(text, len(points))
    assert found == points
    assert rule in repairs


def test_every_rule_has_a_hand_written_case() -> None:
    assert {r[0] for r in REPAIRS} == {rule.name for rule in RULES}


@pytest.mark.parametrize(
    ("n_pairs", "expected_x", "reason"),
    [
        (2, [0, 1, 1, 1, 1, 1], "last of 2 points repeated"),
        (6, [0, 1, 2, 3, 4, 5], "white space removed"),
        (8, [0, 1, 2, 3, 4, 5], "first 6 of 8 points kept"),
    ],
)
def test_released_fits_the_answer_to_six(
    n_pairs: int, expected_x: list[float], reason: str
) -> None:
    text = "[" + ", ".join(f"({i}.00,{i + 10}.00)" for i in range(n_pairs)) + "]"
    decoded = get_codec("text", repair="released").decode(text)
    assert decoded.status == "repaired"
    assert reason in decoded.reason
    np.testing.assert_array_equal(decoded.x_m, expected_x)
    np.testing.assert_array_equal(decoded.y_m, np.array(expected_x) + 10)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no plan",
        "(1.0)",
        "(-,4.5)",
        "(1e-3,4.5)",
        "(1.0,2.0) (1.2.3.4,5.0)",
        f"({'9' * 400},1)",
    ],
    ids=["empty", "words", "one number", "lone minus", "exponent", "four points", "beyond float"],
)
def test_released_fails_where_the_original_aborts(text: str) -> None:
    decoded = get_codec("text", repair="released").decode(text)
    assert (decoded.status, decoded.x_m.shape) == ("failed", (6,))
    assert np.isnan(decoded.x_m).all()


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=range(len(GOLDEN["cases"])))
def test_released_repairs_as_the_original(case: dict[str, object]) -> None:
    if isinstance(case["expected"], str):
        with pytest.raises(ValueError, match="no coordinate pair|could not convert"):
            parse_released(str(case["text"]), 6)
    else:
        points, _ = parse_released(str(case["text"]), 6)
        assert [list(p) for p in points] == case["expected"]


@given(plan=road_plan)
def test_an_exact_answer_needs_no_repair(plan: np.ndarray) -> None:
    text = get_codec("text").encode(plan[:, 0], plan[:, 1])
    points, repairs = parse_released(text, 6)
    assert repairs == ()
    np.testing.assert_array_equal(points, round_trip(get_codec("text"), plan))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("txt", {}, "Did you mean 'text'"),
        ("text", {"n_step": 6}, "Did you mean 'n_steps'"),
        ("delta", {"repair": "released"}, "Unknown option"),
        ("text", {"repair": "relaxed"}, "Did you mean 'released'"),
        ("text", {"n_steps": 0}, "n_steps of 1 or more"),
        ("text", {"repair": "released", "variable_length": True}, "contradicts"),
        ("bins", {"x_range_m": (1.0, 1.0)}, "low < high"),
        ("bins", {"y_range_m": (0.0, math.inf)}, "low < high"),
        ("bins", {"y_bins": 0}, "count of 1 or more"),
    ],
)
def test_options_that_make_no_codec(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(OdvlaError, match=message) as caught:
        get_codec(name, **options)
    assert isinstance(caught.value, UnknownNameError) == ("nknown" in str(caught.value))
