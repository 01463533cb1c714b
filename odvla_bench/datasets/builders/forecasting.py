"""Agents' tracks → stage 2.5: where each agent will be in the next 3 s, in its own frame."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from odvla_bench.datasets.builders.base import Context, Drop, Unit, UnitRows
from odvla_bench.datasets.builders.language import flag_lists, keyframe_columns, table_of
from odvla_bench.datasets.builders.objects import object_columns, passes_filter
from odvla_bench.datasets.builders.planning import plan_scenes, rows_where
from odvla_bench.datasets.builders.sieve import Columns
from odvla_bench.datasets.nuscenes.agents import Agents
from odvla_bench.datasets.nuscenes.ego import FUTURE_STEPS, EgoMotion
from odvla_bench.datasets.schema import FORECASTING
from odvla_bench.geometry import FloatArray

_REASONS = {
    "no_split": "no official split names its scene",
    "no_lidar": "its keyframe has no LIDAR_TOP record, and with it no pose",
    "filtered": "does not pass the object filter",
    "no_future": "its track has no box in the next keyframe",
}


class ForecastingBuilder:
    """One row an annotated box whose track goes on in the next keyframe.

    A future ends where the track has its first gap, so that step k is always k half seconds away.
    """

    name = "forecasting"
    tables = (FORECASTING.name,)
    requires = ()

    def plan(self, context: Context) -> list[Unit]:
        """Units of `scenes_per_shard` scenes of one split, in scene order."""
        return plan_scenes(self.name, context)

    def build(self, context: Context, unit: Unit) -> UnitRows:
        """Rows of the unit's scenes."""
        samples = rows_where(context.nuscenes.samples, "scene_id", unit.payload)
        annotations = rows_where(context.nuscenes.annotations, "sample_id", samples["sample_id"])
        read = {FORECASTING.name: annotations.num_rows}
        if not unit.split:
            return UnitRows({}, read, _drops(annotations, "no_split"))
        seen = samples.filter(samples["has_lidar"])
        boxed = pc.is_in(annotations["sample_id"], seen["sample_id"].combine_chunks())
        drops = _drops(annotations.filter(pc.invert(boxed)), "no_lidar")
        annotations = annotations.filter(boxed)
        xy, steps, gaps = _futures(annotations, seen)
        wanted = passes_filter(annotations, context.request.settings)
        drops += _drops(annotations.filter(pa.array(~wanted)), "filtered")
        drops += _drops(annotations.filter(pa.array(wanted & (steps == 0))), "no_future")
        keep = wanted & (steps > 0)
        rows = _columns(context, annotations.filter(pa.array(keep)))
        rows |= {f"{c}_m": _lists(xy[keep, :, i], steps[keep]) for i, c in enumerate("xy")}
        rows["flags"] = flag_lists({"track_has_gap": gaps[keep]}, int(keep.sum()))
        table = table_of(FORECASTING, rows)
        return UnitRows({FORECASTING.name: table}, read, drops)


BUILDER = ForecastingBuilder()


def _futures(
    annotations: pa.Table, samples: pa.Table
) -> tuple[FloatArray, npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Positions in each agent's own frame, how many of them, and whether boxes follow a gap.

    Returns:
        (M, 6, 2) metres, right and along the heading; (M,) steps before the first gap; (M,) bool.
    """
    motion = EgoMotion.from_samples(samples)
    agents = Agents.from_tables(annotations, samples, motion.global_from_lidar)
    _, _, own_xy, valid = agents.motion(FUTURE_STEPS)
    steps = np.cumprod(valid, axis=1).sum(1)
    return own_xy, steps, valid.sum(1) > steps


def _lists(values: FloatArray, lengths: npt.NDArray[np.int64]) -> pa.ListArray:
    """The first `lengths` values of each row."""
    flat = values[np.arange(values.shape[1]) < lengths[:, None]]
    offsets = pa.array(np.r_[0, np.cumsum(lengths)].astype(np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(flat.astype(np.float32)))


def _columns(context: Context, annotations: pa.Table) -> Columns:
    """The columns that say which agents these are."""
    samples = annotations["sample_id"]
    return {
        "row_id": pc.binary_join_element_wise(BUILDER.name, annotations["token"], ":"),
        "sample_id": samples,
        **keyframe_columns(context.keyframes, samples),
        "source": BUILDER.name,
        "license": "CC BY-NC-SA 4.0",
        "task": "motion",
        **object_columns(context, annotations),
    }


def _drops(annotations: pa.Table, reason: str) -> list[Drop]:
    return [
        Drop(FORECASTING.name, token, reason, f"box {token}: {_REASONS[reason]}")
        for token in annotations["token"].to_pylist()
    ]
