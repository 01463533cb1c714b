"""The data path on a trainval-size tree, beside nuscenes-devkit and a plain per-sample loop.

    python -m benchmarks.data [--root TREE] [--repeat 5]

Without --root a synthetic tree of trainval's size is written first (about 3 GB).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measure import Usage, cpu, here, in_own_process, markdown, peak, seconds
from odvla_bench.baselines.predict import predict
from odvla_bench.datasets.build import build
from odvla_bench.datasets.builders.base import BuildRequest
from odvla_bench.datasets.nuscenes.agents import Agents
from odvla_bench.datasets.nuscenes.can_bus import load_can_bus
from odvla_bench.datasets.nuscenes.ego import FUTURE_STEPS, HISTORY_STEPS, EgoMotion, command
from odvla_bench.datasets.nuscenes.tables import NuScenesTables, load_tables
from odvla_bench.datasets.reader import open_build

VERSION = "v1.0-trainval"

DEVKIT_LOAD = """
import sys
from nuscenes.nuscenes import NuScenes
NuScenes(sys.argv[2], sys.argv[1], verbose=False)
"""
FIRST_LOAD = """
import sys, tempfile
from odvla_bench.datasets.nuscenes.tables import load_tables
with tempfile.TemporaryDirectory() as cache:
    load_tables(sys.argv[1], sys.argv[2], cache_dir=cache, memory_limit=sys.argv[3])
"""
RELOAD = """
import sys
from odvla_bench.datasets.nuscenes.tables import load_tables
tables = load_tables(sys.argv[1], sys.argv[2], cache_dir=sys.argv[3])
for name in ("scenes", "samples", "cameras", "instances", "annotations"):
    getattr(tables, name)
"""
CONVERSION = """
import sys, tempfile
from pathlib import Path
from odvla_bench.datasets.build import build
from odvla_bench.datasets.builders.base import BuildRequest
with tempfile.TemporaryDirectory() as work:
    request = BuildRequest(Path(sys.argv[1]), sys.argv[2], Path(work) / "cache")
    build(request, Path(work) / "build", sources=["planning"])
"""
EVALUATION = """
import sys
from odvla_bench.cli.main import run
preds, data, out = sys.argv[1:]
sys.argv[1:] = ["eval", "--preds", preds, "--data", data, "--out", out]
try:
    run()
except SystemExit as stop:
    assert not stop.code
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        root = options.root or write_tree(Path(work) / "nuscenes")
        print(run(root, Path(work) / "cache", options.repeat))


def write_tree(root: Path) -> Path:
    from odvla_bench.datasets.nuscenes.synthetic import SyntheticConfig, write_nuscenes

    write_nuscenes(root, SyntheticConfig(version=VERSION, n_scenes=850))
    return root


def run(root: Path, cache: Path, repeat: int) -> str:
    """The table of all rows."""
    place = str(root)
    devkit = in_own_process(DEVKIT_LOAD, place, VERSION, repeat=repeat)
    first = in_own_process(FIRST_LOAD, place, VERSION, "2GB", repeat=repeat)
    low = in_own_process(FIRST_LOAD, place, VERSION, "500MB", repeat=repeat)
    tables = load_tables(root, VERSION, cache_dir=cache)
    again = in_own_process(RELOAD, place, VERSION, str(cache), repeat=repeat)
    whole = in_own_process(CONVERSION, place, VERSION, repeat=repeat)
    evaluation = evaluation_runs(root, cache, repeat)
    records, loop = records_runs(tables, repeat)
    aligned, reread = can_bus_runs(tables, repeat)
    rows = [
        _row("first load of the tables", devkit, first, "nuscenes-devkit"),
        _row("the same with --memory-limit 500MB", devkit, low, "nuscenes-devkit"),
        _row("load again, from the cache", devkit, again, "nuscenes-devkit"),
        _row("ego and agent records of all keyframes", loop, records, "devkit loop, extrapolated"),
        _row(
            "CAN-bus alignment of all keyframes", reread, aligned, "re-read a sample, extrapolated"
        ),
        _alone("JSON → planning build, everything", whole),
        _alone("`eval` of val's 6,019 plans: eleven protocols, intervals, pictures", evaluation),
    ]
    header = ("what", "reference, CPU s", "MB", "odvla_bench, CPU s", "MB", "ratio")
    return markdown(header, rows)


def _row(what: str, theirs: list[Usage], ours: list[Usage], who: str) -> list[str]:
    memory = ["" if np.isnan(peak(runs)) else f"{peak(runs):,.0f}" for runs in (theirs, ours)]
    ratio = f"{cpu(theirs) / cpu(ours):.1f}×"
    return [f"{what} (vs {who})", seconds(theirs), memory[0], seconds(ours), memory[1], ratio]


def _alone(what: str, runs: list[Usage]) -> list[str]:
    return [what, "-", "", seconds(runs), f"{peak(runs):,.0f}", "-"]


def evaluation_runs(root: Path, cache: Path, repeat: int) -> list[Usage]:
    """The whole command: plans of `constant-velocity` joined with a build and scored."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        build(BuildRequest(root, VERSION, cache), work / "build", sources=["planning"])
        predict(open_build(work / "build"), "val", "constant-velocity", work / "cv.parquet")
        arguments = (work / "cv.parquet", work / "build", work / "results")
        return in_own_process(EVALUATION, *map(str, arguments), repeat=repeat)


def records_runs(tables: NuScenesTables, repeat: int) -> tuple[list[Usage], list[Usage]]:
    """All records vectorised, and a loop over a few samples with the devkit, scaled up."""

    def ours() -> None:
        # Reading the cache is part of the work.
        fresh = load_tables(tables.root, tables.version, cache_dir=tables.cache_dir.parents[1])
        motion = EgoMotion.from_samples(fresh.samples)
        future, valid = motion.positions(FUTURE_STEPS)
        motion.positions(HISTORY_STEPS)
        command(future, valid)
        agents = Agents.from_tables(fresh.annotations, fresh.samples, motion.global_from_lidar)
        assert len(agents.centre_m) == len(agents.yaw_rad)
        agents.velocity_mps()
        agents.motion(FUTURE_STEPS)
        agents.motion(HISTORY_STEPS)

    return here(ours, repeat=repeat), devkit_loop(tables, repeat)


def devkit_loop(tables: NuScenesTables, repeat: int, per_run: int = 60) -> list[Usage]:
    """What people write: for every sample its poses, boxes, and every agent's past and future."""
    from nuscenes.nuscenes import NuScenes
    from nuscenes.prediction import PredictHelper

    nusc = NuScenes(tables.version, str(tables.root), verbose=False)
    helper = PredictHelper(nusc)
    tokens = np.array(tables.samples["token"].to_pylist())
    tokens = np.random.default_rng(0).permutation(tokens)
    chunks = iter(tokens[: per_run * repeat].reshape(repeat, per_run))

    def loop() -> None:
        for token in next(chunks):
            one_sample_with_devkit(nusc, helper, str(token))

    scale = len(tokens) / per_run
    return [Usage(usage.cpu_s * scale) for usage in here(loop, repeat=repeat)]


def one_sample_with_devkit(nusc: object, helper: object, token: str) -> None:
    from pyquaternion import Quaternion

    def lidar_pose(sample: dict) -> tuple[np.ndarray, Quaternion]:
        data = nusc.get("sample_data", sample["data"]["LIDAR_TOP"])
        ego = nusc.get("ego_pose", data["ego_pose_token"])
        sensor = nusc.get("calibrated_sensor", data["calibrated_sensor_token"])
        turn = Quaternion(ego["rotation"])
        place = turn.rotate(np.array(sensor["translation"])) + ego["translation"]
        return place, turn * Quaternion(sensor["rotation"])

    sample = nusc.get("sample", token)
    place, turn = lidar_pose(sample)
    for link, steps in (("next", 6), ("prev", 4)):
        other = sample
        for _ in range(steps):
            if not other[link]:
                break
            other = nusc.get("sample", other[link])
            turn.inverse.rotate(lidar_pose(other)[0] - place)
    _, boxes, _ = nusc.get_sample_data(sample["data"]["LIDAR_TOP"])
    for box in boxes:
        nusc.box_velocity(box.token)
        instance = nusc.get("sample_annotation", box.token)["instance_token"]
        helper.get_future_for_agent(instance, token, seconds=3, in_agent_frame=True)
        helper.get_past_for_agent(instance, token, seconds=2, in_agent_frame=True)


def can_bus_runs(
    tables: NuScenesTables, repeat: int, per_run: int = 60
) -> tuple[list[Usage], list[Usage]]:
    """Reading and aligning all CAN poses at once, and re-reading a scene's file for each sample."""
    scene = tables.samples["scene_id"].to_numpy().astype(np.int64)
    times = tables.samples["timestamp_us"].to_numpy()

    def ours() -> None:
        with tempfile.TemporaryDirectory() as fresh:
            bus = load_can_bus(tables.root, tables.scenes, Path(fresh))
        for messages, name in ((bus.pose, "vel_0"), (bus.steeranglefeedback, "value")):
            rows, _ = messages.next(scene, times)
            messages.values(name, rows)

    names = tables.scenes["name"].to_pylist()
    picks = iter(
        np.random.default_rng(1).permutation(len(times))[: per_run * repeat].reshape(repeat, -1)
    )

    def reread() -> None:
        for i in next(picks):
            for kind in ("pose", "steeranglefeedback"):  # what the field's converters read
                path = tables.root / "can_bus" / f"{names[scene[i]]}_{kind}.json"
                messages = json.loads(path.read_text()) if path.is_file() else []
                for message in messages:
                    if message["utime"] > times[i]:
                        break

    scale = len(times) / per_run
    loop = [Usage(usage.cpu_s * scale) for usage in here(reread, repeat=repeat)]
    return here(ours, repeat=repeat), loop


if __name__ == "__main__":
    main()
