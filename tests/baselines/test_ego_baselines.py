"""Ego baselines: hand-computed plans, and that nothing of the future reaches them."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from odvla_bench.baselines.ego import PLANNERS
from odvla_bench.baselines.inputs import INPUT_COLUMNS, ModelInput, read_inputs
from odvla_bench.baselines.predict import MODELS, predict, recorded
from odvla_bench.datasets.nuscenes.tables import list_column
from odvla_bench.datasets.reader import open_build
from odvla_bench.datasets.schema import PLANNING
from odvla_bench.errors import InputError, UnknownNameError
from odvla_bench.predictions import read_predictions


def one_input(**values: object) -> ModelInput:
    """A single keyframe that stands still, changed by `values`."""
    base = {
        "sample_token": ["a"],
        "history_m": np.zeros((1, 4, 2)),
        "history_valid": np.ones((1, 4), bool),
        "velocity_mps": np.zeros((1, 2)),
        "velocity_valid": np.array([True]),
        "acceleration_mps2": np.zeros((1, 2)),
        "acceleration_valid": np.array([True]),
        "yaw_rate_radps": np.zeros(1),
        "can_bus": np.zeros((1, 5)),
        "can_valid": np.array([False]),
        "command": np.array([2]),
    }
    return ModelInput(**(base | values))


def test_constant_velocity() -> None:
    plan = PLANNERS.get("constant-velocity")(one_input(velocity_mps=np.array([[1.0, 4.0]])))
    np.testing.assert_allclose(plan[0], [[0.5 * k, 2.0 * k] for k in range(1, 7)])


def test_constant_turn_rate_is_a_quarter_circle_to_the_left() -> None:
    radius, rate = 6.0, np.pi / 2 / 3  # a quarter turn in 3 s
    inputs = one_input(
        velocity_mps=np.array([[0.0, radius * rate]]), yaw_rate_radps=np.array([rate])
    )
    plan = PLANNERS.get("constant-turn-rate")(inputs)
    np.testing.assert_allclose(plan[0, -1], [-radius, radius], atol=1e-9)
    np.testing.assert_allclose(np.hypot(plan[0, :, 0] + radius, plan[0, :, 1]), radius)


def test_no_turn_is_constant_velocity() -> None:
    inputs = one_input(velocity_mps=np.array([[0.3, 7.0]]))
    np.testing.assert_allclose(
        PLANNERS.get("constant-turn-rate")(inputs), PLANNERS.get("constant-velocity")(inputs)
    )


@pytest.mark.parametrize(("can_valid", "y"), [(True, 9.0), (False, 0.0)])
def test_the_first_keyframe_goes_by_the_can_bus(can_valid: bool, y: float) -> None:
    inputs = one_input(
        velocity_valid=np.array([False]),
        can_bus=np.array([[3.0, 0, 0, 0, 0]]),
        can_valid=np.array([can_valid]),
    )
    plan = PLANNERS.get("constant-velocity")(inputs)
    np.testing.assert_allclose(plan[0, -1], [0, y])


def test_inputs_hold_no_future() -> None:
    assert not [c for c in INPUT_COLUMNS if "future" in c or c.startswith(("ego_", "released"))]


def poisoned(build_dir: Path, out: Path) -> Path:
    """The build with every recorded future replaced by noise."""
    shutil.copytree(build_dir, out)
    rng = np.random.default_rng(0)
    for path in (out / "planning").glob("*.parquet"):
        rows = pq.read_table(path)
        for i, name in enumerate(rows.column_names):
            if name.startswith("future") and pa.types.is_floating(rows.schema.types[i].value_type):
                noise = rng.normal(0, 30, (rows.num_rows, 6)).astype(np.float32)
                values = pa.array(list(noise), rows.schema.field(i).type)
                rows = rows.set_column(i, rows.schema.field(i), values)
        pq.write_table(rows.cast(PLANNING.schema), path)
        fix_size(out, path)
    return out


def fix_size(build: Path, path: Path) -> None:
    manifest = build / "manifest.json"
    import json

    content = json.loads(manifest.read_text())
    for table in content["tables"].values():
        for split in table.values():
            for file in split["files"]:
                if build / file["path"] == path:
                    file["bytes"] = path.stat().st_size
    manifest.write_text(json.dumps(content))


def test_poisoned_futures_change_no_prediction(build_dir: Path, tmp_path: Path) -> None:
    clean, noise = open_build(build_dir), open_build(poisoned(build_dir, tmp_path / "b"))
    for model in PLANNERS:
        plans = []
        for build in (clean, noise):
            predict(build, "mini_val", model, tmp_path / "p.parquet")
            plans.append(read_predictions(tmp_path / "p.parquet").xy_m)
        np.testing.assert_array_equal(*plans)
    one, other = (read_inputs(b, "mini_val") for b in (clean, noise))
    np.testing.assert_array_equal(one.history_m, other.history_m)
    predict(noise, "mini_val", "ground-truth", tmp_path / "p.parquet")
    truth = read_predictions(tmp_path / "p.parquet").xy_m
    predict(clean, "mini_val", "ground-truth", tmp_path / "p.parquet")
    assert np.abs(truth - read_predictions(tmp_path / "p.parquet").xy_m).max() > 1


def test_ego_mlp_learns_and_is_seeded(build_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from odvla_bench.baselines.ego_mlp import EgoMlp, EgoMlpConfig

    build = open_build(build_dir)
    inputs = read_inputs(build, "mini_train")
    plans = [
        EgoMlp(build, "mini_train", EgoMlpConfig(steps=300, seed=s))(inputs) for s in (0, 0, 1)
    ]
    np.testing.assert_array_equal(plans[0], plans[1])
    assert np.abs(plans[0] - plans[2]).max() > 0
    # On the keyframes it has seen it must beat the plan that it corrects.
    truth = recorded(build, "mini_train")
    valid = list_column(build.table("planning", "mini_train"), "future_valid").astype(bool)
    before = np.abs(PLANNERS.get("constant-turn-rate")(inputs) - truth)[valid].mean()
    assert np.abs(plans[0] - truth)[valid].mean() < 0.5 * before


@pytest.mark.parametrize("model", MODELS)
def test_every_model_writes_one_finite_plan_a_keyframe(
    build_dir: Path, tmp_path: Path, model: str
) -> None:
    count = predict(open_build(build_dir), "mini_val", model, tmp_path / "p.jsonl")
    predictions = read_predictions(tmp_path / "p.jsonl")
    assert len(predictions) == count == 14
    assert np.isfinite(predictions.xy_m).all()


def test_mistakes_are_named(build_dir: Path, tmp_path: Path) -> None:
    build, out = open_build(build_dir), tmp_path / "p.parquet"
    with pytest.raises(UnknownNameError, match="Did you mean 'stationary'"):
        predict(build, "mini_val", "stationry", out)
    with pytest.raises(UnknownNameError, match="mini_val"):
        predict(build, "val", "stationary", out)
    with pytest.raises(InputError, match="trained on the split it predicts"):
        predict(build, "mini_train", "ego-mlp", out)
    assert not out.exists()
