"""Predictions of a model directory for a split, shard by shard, so that a stopped run goes on."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import AutoConfig

from odvla_bench.baselines.opendrivevla.answering import Answerer, Decoding
from odvla_bench.baselines.opendrivevla.checkpoint import open_model
from odvla_bench.baselines.opendrivevla.configuration import OpenDriveVLAConfig
from odvla_bench.baselines.opendrivevla.instructions import read_conversations
from odvla_bench.baselines.opendrivevla.prompting import INPUTS, Prompting, make_prompting
from odvla_bench.baselines.opendrivevla.sources import open_source
from odvla_bench.datasets.executor import run_tasks
from odvla_bench.datasets.nuscenes.ego import COMMANDS
from odvla_bench.datasets.reader import open_build
from odvla_bench.datasets.waypoints import get_codec
from odvla_bench.datasets.writer import whole_file
from odvla_bench.errors import InputError
from odvla_bench.predictions import write_predictions
from odvla_bench.provenance import digest_text
from odvla_bench.registry import suggest

PLANNING = "planning"
SHARD_ROWS = 256
_PARTS = ".parts"

ANSWERS = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("sample_token", pa.string(), nullable=False),
        pa.field("instance_id", pa.int32(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("latency_s", pa.float64(), nullable=False),
    ]
)
"""Answers to conversations of any task; `sample` 0 is the greedy one."""


@dataclass(frozen=True)
class Prediction:
    """What to predict, with what."""

    model: str
    """Model directory or hub name."""
    data: Path
    """The build."""
    out: Path
    """`.parquet` file to write."""
    split: str = "val"
    table: str = PLANNING
    """`planning`, `forecasting`, `instruct` or `alignment`."""
    tokens: str = ""
    """Feature store; not needed by a text-only model."""
    command: str | None = None
    """One driving command in place of the recorded ones."""
    system_file: str = ""
    """File of the system text, for models of the profile `released`."""
    limit: int = 0
    """Conversations to answer; 0 is all."""
    decoding: Decoding = field(default_factory=Decoding)
    dtype: str = "auto"
    """`float32`, `bfloat16`, or auto: bfloat16 on CUDA."""

    def __post_init__(self) -> None:
        """Check what can be checked without data.

        Raises:
            UnknownNameError: no such command.
            InputError: an output that is no Parquet file.
        """
        if self.command is not None and self.command not in COMMANDS:
            raise suggest(self.command, list(COMMANDS), kind="driving command")
        if self.out.suffix != ".parquet":
            raise InputError(f"{self.out}: predictions of a model are written as .parquet.")


@dataclass(frozen=True)
class Shard:
    """Conversations from `start` on, and the file of their answers."""

    prediction: Prediction
    start: int
    file: Path


def predict(
    prediction: Prediction,
    *,
    executor: str = "local",
    workers: int = 1,
    gpus_per_worker: float = 0,
    report: Callable[[int, int], None] | None = None,
) -> Path:
    """Answer the conversations of a split and write the predictions file.

    Started again after a stop it goes on with the shards that are missing. Started by torchrun,
    each process takes every so many shards, and the one that finishes last writes the file.

    Args:
        prediction: what to predict.
        executor: see `run_tasks`.
        workers: processes at a time.
        gpus_per_worker: what a Ray task asks for.
        report: told of finished shards and of all.

    Returns:
        The file; of several samples a row the drawn ones lie beside it in `….samples.parquet`.
    """
    rows = _conversations(prediction)
    folder = prediction.out.with_name(prediction.out.name + _PARTS) / _key(prediction)
    starts = range(0, rows.num_rows, SHARD_ROWS)
    shards = [Shard(prediction, s, folder / f"{s:08d}.parquet") for s in starts]
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    pending = [s for s in shards[rank::world] if not s.file.is_file()]
    for done, _ in enumerate(
        run_tasks(
            answer_shard, pending, executor=executor, workers=workers, gpus=gpus_per_worker
        ),
        1,
    ):
        if report:
            report(len(shards[rank::world]) - len(pending) + done, len(shards[rank::world]))
    if all(shard.file.is_file() for shard in shards):
        _write(prediction, pa.concat_tables(pq.read_table(s.file) for s in shards))
        if world == 1:
            shutil.rmtree(folder.parent)
    return prediction.out


def answer_shard(shard: Shard) -> Path:
    """Answer one shard's conversations."""
    answerer = _answerer(shard.prediction)
    rows = _conversations(shard.prediction).slice(shard.start, SHARD_ROWS)
    answers = sorted(answerer.answer(rows), key=lambda a: (a.row, a.sample))
    taken = rows.take([a.row for a in answers])
    table = pa.table(
        {
            **{n: taken[n] for n in ("row_id", "task", "sample_token", "instance_id")},
            "sample": pa.array([a.sample for a in answers], pa.int32()),
            "text": [a.text for a in answers],
            "latency_s": [a.latency_s for a in answers],
        }
    ).cast(ANSWERS)
    with whole_file(shard.file) as temporary:
        pq.write_table(table, temporary)
    return shard.file


def prompting_of(model: str, system_file: str = "") -> Prompting:
    """How the prompts of a model directory are made: as those that it was trained with."""
    from odvla_bench.baselines.opendrivevla.checkpoint import read_config

    config = read_config(model)
    return make_prompting(
        config.get("prompt_profile", "released"),
        inputs=config.get("prompt_inputs") or INPUTS,
        codec=config.get("waypoint_codec", "text"),
        system_file=Path(system_file) if system_file else None,
    )
