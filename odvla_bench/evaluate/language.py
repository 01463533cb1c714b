"""Answers joined with a build's instruction tables and scored under a named profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from odvla_bench.datasets.reader import Build
from odvla_bench.errors import InputError, PredictionError
from odvla_bench.evaluate.dense_frames import dense_frames
from odvla_bench.metrics import dense_captioning, qa
from odvla_bench.metrics.signature import with_build
from odvla_bench.metrics.text import profiles
from odvla_bench.metrics.text.profiles import NuxParts, ScoreOptions
from odvla_bench.metrics.text.scoring import CAPTION_METRICS
from odvla_bench.metrics.text.tables import ScoreTable
from odvla_bench.predictions.table import reservations
from odvla_bench.predictions.texts import Record, match_answers, read_metadata, read_records
from odvla_bench.registry import Registry, suggest


@dataclass(frozen=True)
class LanguageTask:
    """A task: the rows of a build that are its questions, and how they may be scored."""

    source: str
    """Builder of the rows, and their table in the build."""
    table: str
    profiles: tuple[str, ...]
    """Names of the profiles that fit; the first is the default."""


TASKS: Registry[LanguageTask] = Registry(
    "task",
    {
        "nucaption": LanguageTask(
            "nucaption", "instruct", ("nucaption-ptb", "nucaption-word-lower")
        ),
        "nuscenes_qa": LanguageTask("nuscenes_qa", "instruct", tuple(qa.PROFILES)),
        "nux": LanguageTask("nux", "instruct", ("nux-ptb", "nux-hintad-raw")),
        "tod3cap": LanguageTask("tod3cap", "alignment", ("tod3cap-iou3d", "tod3cap-released")),
    },
)
"""Task name → its rows and profiles; the names are those of the sources."""


def evaluate_language(
    build: Build,
    preds: Path,
    task: str,
    *,
    profile: str | None = None,
    split: str = "val",
    options: ScoreOptions | None = None,
) -> ScoreTable:
    """Score a file of answers on a split of a build; intervals are clustered by scene.

    Args:
        build: a build with the task's source.
        preds: JSON Lines or Parquet: `row_id` and `text` (or `prediction`); for `tod3cap`, one
            record a keyframe with `sample_token`, `boxes` (lists of x, y, z, width, length,
            height, yaw: LIDAR frame at t0, metres and radians), `captions`, and where both sides
            are to be filtered `names` (see `dense_frames`).
        task: one of `TASKS`.
        profile: one of the task's profiles; its first by default.
        split: which rows to score.
        options: BERTScore, how to run, intervals.

    Raises:
        UnknownNameError: no such task, or no such profile of it.
        InputError: the build has no rows of the task in this split, or BERTScore of answers
            that are only right or wrong.
        PredictionError: answers to other rows, or not of the task's form.
    """
    chosen, options = TASKS.get(task), options or ScoreOptions()
    name = profile or chosen.profiles[0]
    if name not in chosen.profiles:
        raise suggest(name, list(chosen.profiles), kind=f"profile of {task}")
    if options.bertscore and name in qa.PROFILES:
        raise profiles.no_bertscore(f"Task {task}")
    rows = build.table(chosen.table, split, sources=[chosen.source])
    if not rows.num_rows:
        raise InputError(
            f"{build.path}: no {task} rows in split {split!r}. Build it with the source {task} "
            "(`odvla-bench build-data --sources-root`), or name another --split."
        )
    if task == "tod3cap":
        table = _dense(build, rows, preds, name, split, options)
    else:
        said = _of_task(build, chosen, preds, split)
        answers = match_answers(preds, said, rows["row_id"].to_pylist())
        table = _texts(rows, answers, name, options)
    made = reservations(read_metadata(preds))
    return replace(table, signature=with_build(table.signature, build.fingerprint) + made)


def _of_task(build: Build, task: LanguageTask, preds: Path, split: str) -> dict[str, Record]:
    """A file's answers less those to other sources of the table: a stage is predicted whole."""
    found = read_records(preds)
    ids = build.table(task.table, split, ("row_id", "source"))
    of = dict(zip(ids["row_id"].to_pylist(), ids["source"].to_pylist(), strict=True))
    kept = {key: record for key, record in found.items() if of.get(key) in (None, task.source)}
    if not kept:
        raise PredictionError(
            f"{preds}: none of its {len(found)} answers is to a row of {task.source}; the first is "
            f"to {next(iter(found))}. Name the task they are for with --task."
        )
    return kept


def _texts(
    rows: pa.Table, answers: Sequence[str | None], name: str, options: ScoreOptions
) -> ScoreTable:
    """Answers to rows of the instruct table."""
    column = {c: rows[c].to_pylist() for c in rows.column_names if c not in ("messages", "raw")}
    scenes = column["scene_name"]
    if name in qa.PROFILES:
        return qa.score_qa(
            qa.PROFILES.get(name),
            answers,
            column["answer"],
            column["template_type"],
            column["num_hop"],
            clusters=scenes,
            resampling=options.resampling,
        )
    chosen = profiles.PROFILES.get(name)
    if isinstance(chosen, profiles.NuxProfile):
        pairs = zip(column["narration"], column["reasoning"], strict=True)
        parts = [NuxParts(*pair) for pair in pairs]
        return profiles.score_nux(chosen, answers, parts, clusters=scenes, options=options)
    references = column["references"]
    return profiles.score_captions(chosen, answers, references, clusters=scenes, options=options)


def _dense(
    build: Build, rows: pa.Table, preds: Path, name: str, split: str, options: ScoreOptions
) -> ScoreTable:
    """Captioned boxes of keyframes against all annotated boxes of those keyframes."""
    frames, scenes, filtered = dense_frames(build, rows, split, preds, read_records(preds))
    metrics = (*CAPTION_METRICS, "bertscore") if options.bertscore else CAPTION_METRICS
    return dense_captioning.score_dense_captions(
        dense_captioning.PROFILES.get(name),
        frames,
        clusters=scenes,
        metrics=metrics,
        options=options.text,
        resampling=options.resampling,
        boxes="detection-rules" if filtered else "all",
    )
