"""Predictions of a model directory for a split, shard by shard, so that a stopped run goes on."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from odvla_bench.baselines.opendrivevla.answering import Answerer, Decoding
from odvla_bench.baselines.opendrivevla.checkpoint import (
    RELEASED_TYPE,
    open_model,
    read_config,
    resolve,
)
from odvla_bench.baselines.opendrivevla.conversations import read_conversations
from odvla_bench.baselines.opendrivevla.prompting import INPUTS, Prompting, make_prompting
from odvla_bench.baselines.opendrivevla.sight import see
from odvla_bench.baselines.opendrivevla.tokens import IMAGES, open_source
from odvla_bench.datasets.executor import run_tasks
from odvla_bench.datasets.reader import open_build
from odvla_bench.datasets.schema import STAGE_TABLES
from odvla_bench.datasets.writer import whole_file
from odvla_bench.errors import InputError
from odvla_bench.predictions import write_predictions
from odvla_bench.predictions.writer import footer_of
from odvla_bench.provenance import digest_text, package_version
from odvla_bench.registry import suggest

SHARD_ROWS = 256
WAYPOINT_STAGES = ("2.5", "3")
_PARTS, _FEATURES = ".parts", "features"

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
    stage: str = "3"
    """Whose conversations: 3 plans, 2.5 agents' motion, 2 questions, 1 captions."""
    tokens: str = ""
    """Feature store, `annotations`, or `images`, at which the model's own perception looks; not
    needed by a text-only model."""
    nuscenes_root: str = ""
    """Folder of the build's images, for `images`."""
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
            InputError: an output that is no Parquet file, or an option that the stage has not.
            UnknownNameError: no such stage.
        """
        if self.stage not in STAGE_TABLES:
            raise suggest(self.stage, list(STAGE_TABLES), kind="stage")
        if self.command and self.stage != "3":
            raise InputError("Prompts have a driving command in stage 3 only; leave --command out.")
        if self.decoding.constrain and self.stage not in WAYPOINT_STAGES:
            raise InputError(
                f"Stage {self.stage} answers in words; --constrain is for the waypoints of stages "
                f"{' and '.join(WAYPOINT_STAGES)}."
            )
        if self.out.suffix != ".parquet":
            raise InputError(f"{self.out}: predictions of a model are written as .parquet.")


@dataclass(frozen=True)
class Shard:
    """`rows` conversations from `start` on, and the file of their answers."""

    prediction: Prediction
    key: str
    """Digest of all that decides the answers."""
    start: int
    rows: int
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
    parts = prediction.out.with_name(prediction.out.name + _PARTS)
    if prediction.tokens == IMAGES and prompting_of(prediction).visual:
        prediction = _with_features(prediction, parts / _FEATURES, executor, report)
    key = _key(prediction)
    folder = parts / key
    starts = range(0, _conversations(prediction, key).num_rows, SHARD_ROWS)
    shards = [
        Shard(prediction, key, start, SHARD_ROWS, folder / f"{start:08d}.parquet")
        for start in starts
    ]
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    pending = [s for s in shards[rank::world] if not s.file.is_file()]
    for done, _ in enumerate(
        run_tasks(answer_shard, pending, executor=executor, workers=workers, gpus=gpus_per_worker),
        1,
    ):
        if report:
            report(len(shards[rank::world]) - len(pending) + done, len(shards[rank::world]))
    if all(shard.file.is_file() for shard in shards):
        _write(prediction, pa.concat_tables(pq.read_table(s.file) for s in shards))
        if world == 1:
            shutil.rmtree(parts)
    return prediction.out


def _with_features(
    prediction: Prediction,
    folder: Path,
    executor: str,
    report: Callable[[int, int], None] | None,
) -> Prediction:
    """The same prediction on features that the model's own perception makes of the images."""
    if not prediction.nuscenes_root:
        raise InputError(f"--tokens {IMAGES}: name the folder of the images with --nuscenes-root.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            f"--tokens {IMAGES} under torchrun: run `odvla-bench extract-features --checkpoint "
            f"{prediction.model}` once and give its folder as --tokens, or use --executor ray."
        )
    samples = _conversations(prediction, str(folder))["sample_token"].to_pylist()
    root, data = Path(prediction.nuscenes_root), Path(prediction.data)
    device = _device()
    see(
        prediction.model,
        root,
        data,
        samples,
        folder,
        device=device,
        executor=executor,
        report=report,
    )
    return dataclasses.replace(prediction, tokens=str(folder))


def answer_shard(shard: Shard) -> Path:
    """Answer one shard's conversations."""
    answerer = _answerer(shard.prediction, shard.key)
    rows = _conversations(shard.prediction, shard.key).slice(shard.start, shard.rows)
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


def prompting_of(prediction: Prediction) -> Prompting:
    """How the prompts of a model are made: as those that it was trained with.

    Raises:
        InputError: a driving command for a model whose prompts show none.
    """
    config = read_config(prediction.model)
    released = config.get("model_type") == RELEASED_TYPE
    prompting = make_prompting(
        "released" if released else config.get("prompt_profile", "default"),
        inputs=config.get("prompt_inputs") or INPUTS,
        codec=config.get("waypoint_codec", "text"),
        system_file=prediction.system_file,
    )
    if not prediction.command:
        return prompting
    if "command" not in prompting.inputs:
        raise InputError(
            f"{prediction.model}: trained on prompts without a driving command; --command has no "
            "effect on it."
        )
    return prompting.with_command(prediction.command)


@functools.lru_cache(maxsize=1)
def _answerer(prediction: Prediction, _key: str) -> Answerer:
    """The model on this process's device; kept from shard to shard of one key."""
    prompting = prompting_of(prediction)
    build = open_build(prediction.data)
    source = open_source(prediction.tokens, build, visual=prompting.visual)
    device = _device()
    bf16 = prediction.dtype == "bfloat16" or (prediction.dtype == "auto" and device != "cpu")
    loaded = open_model(prediction.model, dtype=torch.bfloat16 if bf16 else torch.float32)
    loaded.model.to(device)
    table = STAGE_TABLES[prediction.stage].name
    return Answerer(loaded, prompting, source, prediction.decoding, table=table)


def _device() -> str:
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0'))}"


@functools.lru_cache(maxsize=1)
def _conversations(prediction: Prediction, _key: str) -> pa.Table:
    """The prompts; no answer is read. Kept from shard to shard of one key."""
    return read_conversations(
        open_build(prediction.data),
        prediction.stage,
        prediction.split,
        prompting_of(prediction),
        answers=False,
        limit=prediction.limit,
    )


def _key(prediction: Prediction) -> str:
    """Digest of all that decides the answers but the weights, whose folder is named."""
    build = open_build(prediction.data)
    source = open_source(prediction.tokens, build, visual=prompting_of(prediction).visual)
    weights = sorted(resolve(prediction.model).glob("*.safetensors"))
    return digest_text(
        build.fingerprint,
        source.fingerprint if source else "",
        *(f"{p.name} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in weights),
        json.dumps(dataclasses.asdict(prediction), sort_keys=True, default=str),
    )


def _write(prediction: Prediction, answers: pa.Table) -> None:
    """The predictions file, and beside it the drawn samples."""
    prompting, build = prompting_of(prediction), open_build(prediction.data)
    source = open_source(prediction.tokens, build, visual=prompting.visual)
    metadata = {
        "model": prediction.model,
        "split": prediction.split,
        "stage": prediction.stage,
        "build_fingerprint": build.fingerprint,
        "odvla_bench_version": package_version(),
        "decoding": prediction.decoding.signature,
        "prompts": prompting.profile.digest,
        "inputs": ",".join(prompting.inputs),
        "waypoint_codec": prompting.codec_name,
        "tokens": source.signature if source else "none",
        "sees_the_future": "false",
        "command": prediction.command or "recorded",
        "batch_size": str(prediction.decoding.batch_size),
    }
    greedy = answers.filter(pc.equal(answers["sample"], 0))
    if prediction.decoding.samples > 1:
        _write_answers(prediction.out.with_suffix(".samples.parquet"), answers, metadata)
    if prediction.stage != "3":
        _write_answers(prediction.out, greedy, metadata)
        return
    write_predictions(
        prediction.out,
        greedy["sample_token"].to_pylist(),
        text=greedy["text"].to_pylist(),
        latency_s=greedy["latency_s"].to_numpy(),
        metadata=metadata,
    )


def _write_answers(path: Path, answers: pa.Table, metadata: dict[str, str]) -> None:
    with whole_file(path) as temporary:
        whole = answers.replace_schema_metadata(footer_of(metadata))
        pq.write_table(whole, temporary, compression="zstd")
