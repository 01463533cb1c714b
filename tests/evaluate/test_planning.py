"""Predictions joined with builds: the numbers, the problems, and what is written."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from odvla_bench.baselines.predict import predict
from odvla_bench.datasets.build import build
from odvla_bench.datasets.builders.base import BuildRequest
from odvla_bench.datasets.reader import Build, open_build
from odvla_bench.errors import InputError, PredictionError
from odvla_bench.evaluate.planning import evaluate_planning
from odvla_bench.evaluate.results import (
    compare_results,
    read_results,
    results_of,
    write_results,
)
from odvla_bench.evaluate.truth import read_truth
from odvla_bench.metrics import score_planning
from odvla_bench.metrics.boxes import boxes_from_tracks
from odvla_bench.metrics.protocols import PROTOCOLS
from odvla_bench.predictions import read_predictions, write_predictions
from odvla_bench.provenance import default_cache_dir


@pytest.fixture(scope="module")
def opened(build_dir: Path) -> Build:
    return open_build(build_dir)


def plans_of(opened: Build, model: str, folder: Path):
    predict(opened, "mini_val", model, folder / f"{model}.parquet")
    return read_predictions(folder / f"{model}.parquet")


def test_the_recorded_drive_is_a_perfect_plan(opened: Build, tmp_path: Path) -> None:
    evaluation = evaluate_planning(opened, plans_of(opened, "ground-truth", tmp_path))
    for name, scores in evaluation.scores.items():
        # UniAD's ground truth follows a point below the lidar: centimetres off on a tilted car.
        atol = 0.1 if scores.protocol.ground_truth == "pseudo_box_bottom" else 1e-5
        assert np.nan_to_num(scores.l2_m).max() <= atol, name
        if scores.protocol.ground_truth == "lidar_origin":
            assert scores.box_collision is not None
            assert not scores.box_collision.any(), name
    assert evaluation.comparable
    assert evaluation.split == "mini_val"


def test_sample_sets_of_the_protocols(opened: Build, tmp_path: Path) -> None:
    scores = evaluate_planning(opened, plans_of(opened, "stationary", tmp_path)).scores
    scored = {name: int(s.scored.sum()) for name, s in scores.items()}
    # one scene of 14 keyframes: 8 with six future steps, 6 that also have two past ones
    assert scored["uniad"] == scored["opendrivevla"] == scored["agent-driver-stp3"] == 14
    assert scored["vad"] == scored["sparsedrive"] == scored["bev-planner"] == 8
    assert scored["stp3"] == 6
    assert scored["exact"] == 13


def test_boxes_of_the_build_are_those_of_the_agents_table(opened: Build) -> None:
    """Joined from GLOBAL boxes and poses, or from the agents' futures: the same obstacles."""
    truth = read_truth(opened, "mini_val")
    agents = opened.table("agents", "mini_val").to_pandas()
    row_of = {token: i for i, token in enumerate(truth.sample_token)}
    now = agents[["x_m", "y_m", "yaw_rad"]].to_numpy()[:, None]
    later = np.stack([np.stack(agents[f"future_{c}"]) for c in ("x_m", "y_m", "yaw_rad")], -1)
    alive = np.concatenate([np.ones((len(agents), 1), bool), np.stack(agents["future_valid"])], 1)
    tracks = boxes_from_tracks(
        np.concatenate([now, later], 1),
        agents[["width_m", "length_m"]].to_numpy(),
        alive,
        category=agents["category"].tolist(),
        visibility=agents["visibility"].to_numpy(),
        sample=agents["sample_token"].map(row_of).to_numpy(),
    )
    flat = truth.boxes
    keys = {
        (s, k, round(x, 2), round(y, 2))
        for s, k, (x, y, _) in zip(flat.sample, flat.step, flat.xy_yaw, strict=True)
    }
    found = [
        (s, k, round(x, 2), round(y, 2)) in keys
        for s, k, (x, y, _) in zip(tracks.sample, tracks.step, tracks.xy_yaw, strict=True)
    ]
    assert np.mean(found) > 0.99  # the rest differ by float32 rounding at the second decimal


def test_numbers_agree_with_the_metric_called_by_hand(opened: Build, tmp_path: Path) -> None:
    predictions = plans_of(opened, "constant-turn-rate", tmp_path)
    evaluation = evaluate_planning(opened, predictions, protocols=["exact"])
    planning = opened.table("planning", "mini_val").to_pandas()
    future = np.stack([np.stack(planning[f"future_{c}_m"]) for c in "xy"], -1)
    by_hand = score_planning(
        predictions.xy_m, future, np.stack(planning["future_valid"]).sum(1), protocol="exact"
    )
    np.testing.assert_allclose(evaluation.scores["exact"].l2_m, by_hand.l2_m, atol=1e-5)


def test_failed_parses_stand_still_and_are_counted(opened: Build, tmp_path: Path) -> None:
    good = plans_of(opened, "constant-velocity", tmp_path)
    texts = ["[" + ",".join(f"({x:.2f},{y:.2f})" for x, y in plan) + "]" for plan in good.xy_m]
    texts[3] = "I would rather walk."
    write_predictions(tmp_path / "t.jsonl", good.sample_token, text=texts)
    evaluation = evaluate_planning(opened, read_predictions(tmp_path / "t.jsonl"))
    assert evaluation.parse_counts == {"failed": 1, "strict": 13}
    np.testing.assert_array_equal(evaluation.xy_m[3], 0)
    signature = evaluation.scores["uniad"].signature
    assert "parser:text/none" in signature
    assert "failed_parse:stationary" in signature
    assert f"build:{opened.fingerprint}" in signature


def test_what_keeps_plans_from_being_compared_is_in_the_signature(
    opened: Build, tmp_path: Path
) -> None:
    good = plans_of(opened, "stationary", tmp_path)
    made = {
        "decoding": "greedy|max_new_tokens:512|constrained:yes",
        "tokens": "tokens:annotations|encoder:waves-1|privileged",
        "command": "turn right|",
    }

    def ending(**metadata: str) -> str:
        write_predictions(
            tmp_path / "p.parquet",
            good.sample_token,
            good.xy_m[..., 0],
            good.xy_m[..., 1],
            metadata=metadata,
        )
        plans = read_predictions(tmp_path / "p.parquet")
        scores = evaluate_planning(opened, plans, protocols=["exact"]).scores["exact"]
        return scores.signature.partition("failed_parse:stationary")[2]

    assert ending(**made) == "|constrained:yes|tokens:privileged|command:turn_right_"
    assert ending(command="recorded", decoding="greedy|constrained:no", tokens="none") == ""
    assert ending(sees_the_future="true") == "|sees_the_future:yes"


def test_missing_and_unknown_tokens(opened: Build, tmp_path: Path) -> None:
    good = plans_of(opened, "constant-velocity", tmp_path)
    tokens = [*good.sample_token[2:], "f" * 32]
    plans = np.concatenate([good.xy_m[2:], good.xy_m[:1]])
    write_predictions(tmp_path / "p.parquet", tokens, plans[..., 0], plans[..., 1])
    predictions = read_predictions(tmp_path / "p.parquet")
    with pytest.raises(PredictionError) as caught:
        evaluate_planning(opened, predictions)
    for token in (*good.sample_token[:2], "f" * 32):
        assert token in str(caught.value)
    evaluation = evaluate_planning(opened, predictions, allow_partial=True)
    assert not evaluation.comparable
    assert len(evaluation.truth.sample_token) == 12
    assert "partial:2_missing" in evaluation.scores["exact"].signature
    whole = evaluate_planning(opened, good)
    for name in PROTOCOLS:  # what is left scores as it does in the whole
        part, full = evaluation.scores[name], whole.scores[name]
        np.testing.assert_array_equal(part.l2_m, full.l2_m[2:])
        np.testing.assert_array_equal(part.box_collision, full.box_collision[2:])


def test_predictions_of_another_build(opened: Build, tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.jsonl", ["a" * 32], np.zeros((1, 6)), np.zeros((1, 6)))
    with pytest.raises(PredictionError, match="none of its sample tokens"):
        evaluate_planning(opened, read_predictions(tmp_path / "p.jsonl"))


def test_results_come_back_and_compare(opened: Build, tmp_path: Path) -> None:
    folders = []
    for model in ("constant-velocity", "stationary"):
        evaluation = evaluate_planning(opened, plans_of(opened, model, tmp_path))
        results = results_of(evaluation)
        write_results(evaluation, results, tmp_path / model)
        folders.append(read_results(tmp_path / model))
        for name, scores in evaluation.scores.items():
            stored = folders[-1].summary["protocols"][name]
            assert stored["table"]["l2_m"] == pytest.approx(scores.table()["l2_m"])
            again = folders[-1].scores(name)
            np.testing.assert_array_equal(again.additive(), scores.additive())
            assert stored["signature"] == scores.signature
    differences = compare_results(*folders)
    assert set(differences) == set(PROTOCOLS)
    cell = differences["exact"]["l2_m"]["3s"]
    one, other = (f.summary["protocols"]["exact"]["table"]["l2_m"]["3s"] for f in folders)
    assert cell["difference"] == pytest.approx(one - other)
    samples = pq.read_table(tmp_path / "stationary" / "samples.parquet")
    assert samples.num_rows == 14


def test_results_are_plain_json(opened: Build, tmp_path: Path) -> None:
    evaluation = evaluate_planning(opened, plans_of(opened, "stationary", tmp_path))
    write_results(evaluation, results_of(evaluation), tmp_path)
    text = (tmp_path / "results.json").read_text()
    assert "NaN" not in text
    summary = json.loads(text)
    assert summary["protocols"]["bev-planner"]["not_available"] == ["curb_collision"]
    assert summary["protocols"]["bev-planner"]["table"]["curb_collision"] is None


def test_other_samples_do_not_compare(opened: Build, tmp_path: Path) -> None:
    for split in ("mini_val", "mini_train"):
        predict(opened, split, "stationary", tmp_path / f"{split}.parquet")
        evaluation = evaluate_planning(opened, read_predictions(tmp_path / f"{split}.parquet"))
        write_results(evaluation, results_of(evaluation), tmp_path / split)
    one, other = (read_results(tmp_path / s) for s in ("mini_val", "mini_train"))
    with pytest.raises(InputError, match="different samples"):
        compare_results(one, other)


@pytest.mark.real
def test_agent_driver_on_real_keyframes(real_data: Path, tmp_path: Path) -> None:
    request = BuildRequest(real_data / "nuscenes-mini-val", "v1.0-mini", default_cache_dir())
    build(request, tmp_path / "b")
    opened = open_build(tmp_path / "b")
    assert opened.table("planning").num_rows == 81
    predictions = read_predictions(real_data / "agent-driver" / "pred_trajs_dict.pkl")
    with pytest.raises(PredictionError, match="5938 predictions|5,938|of other samples"):
        evaluate_planning(opened, predictions)
    evaluation = evaluate_planning(opened, predictions, allow_partial=True)
    scores = evaluation.scores["vad"]
    assert scores.counts()["scored_samples"] == 69
    l2 = np.nanmean(scores.l2_m, axis=0)
    np.testing.assert_allclose(l2, [0.097, 0.246, 0.487, 0.855, 1.405, 2.102], atol=5e-4)
