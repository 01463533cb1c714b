"""What a build says about the keyframes of a split: the recorded drives and the boxes around."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from odvla_bench.datasets.nuscenes.ego import FUTURE_STEPS, HISTORY_STEPS, EgoMotion
from odvla_bench.datasets.reader import Build
from odvla_bench.geometry import FloatArray, Pose, pose_from_quaternion
from odvla_bench.metrics.boxes import boxes_from_global
from odvla_bench.metrics.obstacles import FIRST_STEP, ObstacleBoxes
from odvla_bench.trajectories import UNIAD_BELOW_LIDAR_M

_STEPS = (*range(FIRST_STEP, 0), 0, *FUTURE_STEPS)
_BOX_COLUMNS = (
    *("sample_id", "instance_id", "category", "visibility", "n_lidar_points", "n_radar_points"),
    *("width_m", "length_m", "height_m"),
    *("global_x_m", "global_y_m", "global_z_m", "global_yaw_rad"),
)


@dataclass(frozen=True)
class PlanningTruth:
    """The N keyframes of a split, in the build's order: by scene and time."""

    planning: pa.Table
    """Columns of the planning table, all keyframes of the split."""
    agents: pa.Table
    """Columns of the agents table, all boxes of the split."""
    rows: npt.NDArray[np.int64]
    """(N,) rows of `planning` that this is about; neighbours are looked up in all of them."""

    def take(self, rows: npt.NDArray[np.int64]) -> PlanningTruth:
        """The truth of some of its keyframes, ascending."""
        return PlanningTruth(self.planning, self.agents, self.rows[rows])

    @property
    def sample_token(self) -> list[str]:
        """N tokens."""
        tokens: list[str] = self.planning["sample_token"].take(self.rows).to_pylist()
        return tokens

    @property
    def scene(self) -> npt.NDArray[np.str_]:
        """(N,) scene names."""
        return np.array(self.planning["scene_name"].take(self.rows).to_pylist())

    @cached_property
    def motion(self) -> EgoMotion:
        """The recorded drives of the whole split."""
        scene_id = self.planning["scene_token"].combine_chunks().dictionary_encode().indices
        return EgoMotion(
            scene_id.to_numpy().astype(np.int64),
            self.planning["frame_index"].to_numpy().astype(np.int64),
            self.planning["timestamp_us"].to_numpy(),
            self._pose("ego"),
            self._pose("lidar"),
        )

    @cached_property
    def n_valid(self) -> npt.NDArray[np.int64]:
        """(N,) future steps up to the first that was not recorded."""
        _, valid = self.motion.rows_at(FUTURE_STEPS)
        return np.cumprod(valid[self.rows], axis=1).sum(1)

    @cached_property
    def n_past(self) -> npt.NDArray[np.int64]:
        """(N,) past steps back to the first that was not recorded."""
        _, valid = self.motion.rows_at(HISTORY_STEPS)
        return np.cumprod(valid[self.rows, ::-1], axis=1).sum(1)

    def recorded_m(self, ground_truth: str = "lidar_origin") -> FloatArray:
        """The recorded future as a protocol takes it; steps from `n_valid` on repeat the last.

        Args:
            ground_truth: `PlanningProtocol.ground_truth`: which point of the car is followed.

        Returns:
            (N, 6, 2) LIDAR frame at t0, metres.
        """
        below = UNIAD_BELOW_LIDAR_M if ground_truth == "pseudo_box_bottom" else 0.0
        xy, _ = self.motion.positions(FUTURE_STEPS, point_lidar_m=(0.0, 0.0, -below))
        return xy[self.rows]

    @cached_property
    def boxes(self) -> ObstacleBoxes:
        """Every annotated box around every keyframe, from two keyframes before to six after."""
        row, step, box = self._boxes_around()
        of = {name: self.agents[name].to_numpy() for name in _BOX_COLUMNS if name != "category"}
        category = self.agents["category"].combine_chunks().dictionary_encode()
        xyz = np.stack([of[f"global_{c}_m"] for c in "xyz"], -1)
        wlh = np.stack([of[f"{c}_m"] for c in ("width", "length", "height")], -1)
        return boxes_from_global(
            xyz[box],
            of["global_yaw_rad"][box],
            wlh[box].astype(np.float64),
            sample=row,
            step=step,
            instance=of["instance_id"][box],
            category=category.indices.to_numpy()[box],
            category_names=tuple(category.dictionary.to_pylist()),
            visibility=of["visibility"][box],
            n_points=(of["n_lidar_points"] + of["n_radar_points"])[box],
            global_from_ego=self._poses_around(),
            ego_from_lidar=self.motion.ego_from_lidar.at(self.rows),
        )

    def _boxes_around(self) -> tuple[npt.NDArray[np.int64], ...]:
        """For every box at every step: row of the keyframe, step, row of the box in `agents`."""
        around, valid = self.motion.rows_at(_STEPS)
        keyframe, k = np.nonzero(valid[self.rows])
        ids = self.planning["sample_id"].to_numpy()[around[self.rows[keyframe], k]]
        owner = self.agents["sample_id"].to_numpy()
        first = np.searchsorted(owner, ids, side="left")
        count = np.searchsorted(owner, ids, side="right") - first
        pair = np.repeat(np.arange(len(keyframe)), count)
        within = np.arange(len(pair)) - np.repeat(np.cumsum(count) - count, count)
        return keyframe[pair], np.array(_STEPS)[k[pair]], first[pair] + within

    def _poses_around(self) -> Pose:
        """(N, 9) EGO in GLOBAL at steps -2 … 6; the keyframe's own where there is none."""
        around, _ = self.motion.rows_at(_STEPS)
        return self.motion.global_from_ego.at(around[self.rows])

    def _pose(self, frame: str) -> Pose:
        columns = (f"{frame}_rotation_wxyz", f"{frame}_translation_m")
        q, t = (pc.list_flatten(self.planning[c]).to_numpy() for c in columns)
        return pose_from_quaternion(q.reshape(-1, 4), t.reshape(-1, 3))


def read_truth(build: Build, split: str) -> PlanningTruth:
    """The truth of a split; only the columns that scoring needs are read."""
    planning = ("sample_id", "sample_token", "scene_token", "scene_name", "frame_index")
    poses = [f"{f}_{c}" for f in ("ego", "lidar") for c in ("translation_m", "rotation_wxyz")]
    keyframes = build.table("planning", split, (*planning, "timestamp_us", *poses))
    return PlanningTruth(
        keyframes.combine_chunks(),
        build.table("agents", split, _BOX_COLUMNS).combine_chunks(),
        np.arange(keyframes.num_rows),
    )
