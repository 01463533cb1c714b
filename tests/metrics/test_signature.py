import numpy as np
import pytest

from odvla_bench.errors import InputError
from odvla_bench.metrics import get_protocol, score_planning, with_build
from odvla_bench.metrics.signature import format_signature
from odvla_bench.provenance import package_version


def test_pairs_stay_in_order_and_apart() -> None:
    text = format_signature([("a", "x|y:z w"), ("n", 3)])
    assert text == f"a:x/y=z_w|n:3|build:-|version:{package_version()}"


def test_the_build_takes_its_place_once() -> None:
    filled = with_build(format_signature([("n", 1)]), "abc123")
    assert filled.split("|")[1] == "build:abc123"
    with pytest.raises(InputError, match="no free place"):
        with_build(filled, "again")


def test_a_score_says_what_moved_it() -> None:
    pred = np.zeros((2, 6, 2), np.float32)
    scores = score_planning(
        pred, pred, np.array([6, 3]), protocol="vad", ground_truth="lidar_origin"
    )
    parts = dict(part.split(":", 1) for part in scores.signature.split("|"))
    assert parts["protocol"] == "vad"
    assert parts["dtype"] == "float32"
    assert (parts["n"], parts["scored"]) == ("2", "1")
    assert parts["gt"] == "lidar_origin"
    assert parts["build"] == "-"
    assert {name for name, _ in get_protocol("vad").choices()} <= parts.keys()
