"""The training loop: one stage of OpenDriveVLA on one build."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from odvla_bench.baselines.opendrivevla.checkpoint import MODEL, Loaded, save_model
from odvla_bench.baselines.opendrivevla.tokens import IMAGES
from odvla_bench.baselines.training.accelerator import make_accelerator
from odvla_bench.baselines.training.attention import pick_implementation
from odvla_bench.baselines.training.checkpoints import (
    checkpoints,
    gather_state,
    load_optimizer,
    read_step,
    save_checkpoint,
    whole_folder,
)
from odvla_bench.baselines.training.config import TrainConfig
from odvla_bench.baselines.training.data import Batch, TrainingData
from odvla_bench.baselines.training.loss import token_losses
from odvla_bench.baselines.training.stages import Stage, freeze, get_stage, learning_parts
from odvla_bench.baselines.training.throughput import Meter, peak_flops, step_flops
from odvla_bench.errors import InputError, OdvlaError
from odvla_bench.provenance import digest_text

LOG = "log.jsonl"

Metrics = dict[str, float]
Report = Callable[[Metrics], None]
Validate = Callable[[], Metrics]

_PASSIVE = (
    *("out", "workers", "save_every", "keep", "log_every", "validate_every", "validation_limit"),
    *("track", "data", "tokens", "system_file", "nuscenes_root", "checkpoint"),
)
"""Settings that do not change a parameter, and paths, whose contents have digests of their own."""


class TrainingError(OdvlaError):
    """A run that cannot go on."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a run works on."""

    config: TrainConfig
    loaded: Loaded
    data: TrainingData
    fingerprint: str
    """Digest of build, tokens, prompts and starting weights."""
    validate: Validate | None = None
    """Scores the model on held-out rows, on the first process."""


class Trainer:
    """One run."""

    def __init__(self, prepared: Prepared, report: Report | None = None) -> None:
        """Put the model on its devices, and go back to the last checkpoint if there is one.

        Args:
            prepared: model and data.
            report: told of every log line, on the first process.

        Raises:
            InputError: a checkpoint of another run in the output folder.
            MissingDependencyError: an experiment tracker that is not installed.
        """
        self._prepared, self._config = prepared, prepared.config
        self._report = report or (lambda _: None)
        self.stage = get_stage(self._config.stage)
        self._accelerator = make_accelerator(self._config)
        self._device = self._accelerator.device
        self._implementation = pick_implementation(
            self._device, self._config.attention, packed=self._config.tokens != IMAGES
        )
        self._out = Path(self._config.out)
        self._raw = prepared.loaded.model
        self.trainable, self.parameters = freeze(self._raw, self.stage)
        self.parts = learning_parts(self._raw)
        self._prepare_model()
        self._per_step = self._config.packs_per_step * self._accelerator.num_processes
        self.steps = self._total_steps()
        self.key = self._key()
        self.step = self._resume()

    @property
    def config(self) -> TrainConfig:
        """Its settings."""
        return self._config

    @property
    def data(self) -> TrainingData:
        """What it trains on."""
        return self._prepared.data

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return bool(self._accelerator.is_main_process)

    @property
    def validates(self) -> bool:
        """Whether held-out rows are scored; sharded, no process has the whole model to do it."""
        sharded = self._config.fsdp and self._accelerator.num_processes > 1
        return self._prepared.validate is not None and not sharded

    def run(self) -> Path:
        """Train to the end; returns the folder of the finished model.

        Raises:
            TrainingError: the loss is not finite, or the device's memory is too small.
        """
        try:
            self._loop()
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"Step {self.step + 1}: out of memory on {self._device}. Lower --set "
                "pack_length, set gradient_checkpointing=true, or, on several devices, fsdp=true."
            ) from error
        state = gather_state(self._model)
        if self.is_main:
            with whole_folder(self._out / MODEL) as temporary:
                save_model(self._prepared.loaded, temporary, state)
        self._accelerator.wait_for_everyone()
        self._accelerator.end_training()
        return self._out / MODEL

    def _prepare_model(self) -> None:
        config, raw = self._config, self._raw
        try:
            raw.set_attn_implementation(self._implementation)
        except ImportError as error:
            raise InputError(
                f"attention={self._implementation} cannot be used here ({error}). Install what "
                "it needs, or take attention=auto."
            ) from error
        raw.train()
        if config.gradient_checkpointing:
            raw.gradient_checkpointing_enable({"use_reentrant": False})
        if config.compile:
            for layer in raw.model.layers:
                layer.compile()
        optimizer = torch.optim.AdamW(
            _parameter_groups(raw, config, self.stage),
            weight_decay=config.weight_decay,
            fused=self._device.type == "cuda",
        )
        self._model, self._optimizer = self._accelerator.prepare(raw, optimizer)

    def _total_steps(self) -> int:
        if self._config.max_steps:
            return self._config.max_steps
        epochs = self._config.epochs or self.stage.epochs
        return math.ceil(epochs * len(self._prepared.data.packs(0)) / self._per_step)

    def _key(self) -> str:
        settings = {k: v for k, v in dataclasses.asdict(self._config).items() if k not in _PASSIVE}
        settings |= {"per_step": self._per_step, "steps": self.steps}
        return digest_text(
            json.dumps(settings, sort_keys=True), self._implementation, self._prepared.fingerprint
        )

    def _resume(self) -> int:
        found = checkpoints(self._out)
        if not found:
            return 0
        step = read_step(found[-1], self.key)
        load_optimizer(found[-1], self._model, self._optimizer.optimizer)
        return step

    def _loop(self) -> None:
        meter = Meter(peak_flops(self._device) * self._accelerator.num_processes)
        losses = _TaskLosses(self._prepared.data.tasks, self._device)
        batches = self._batches()
        config = self._config
        while self.step < self.steps:
            self._set_learning_rates()
            group = [next(batches) for _ in range(config.packs_per_step)]
            norm = self._step(group, losses)
            self.step += 1
            for batch in group:
                self._count(meter, batch)
            last = self.step == self.steps
            if self.step % config.log_every == 0 or last:
                self._log({**losses.read(self._accelerator), **meter.read(), "gradient_norm": norm})
            if self.step % config.save_every == 0 and not last:
                self._save()
            if last or (config.validate_every and self.step % config.validate_every == 0):
                self._validate()

    def _step(self, group: list[Batch], losses: _TaskLosses) -> float:
        """One optimiser step over a group of packs; the norm of its gradient."""
        accelerator = self._accelerator
        total = accelerator.reduce(sum(b.weight.sum() for b in group), reduction="sum")
        for i, batch in enumerate(group):
            waits = i < len(group) - 1
            self._draw_alike(i)
            with accelerator.no_sync(self._model) if waits else nullcontext():
                with accelerator.autocast():
                    nats = token_losses(self._model, batch, self._implementation)
                self._check(nats, batch)
                # Processes average their gradients, so each counts for as many as there are.
                loss = (nats * batch.weight).sum() / total * accelerator.num_processes
                accelerator.backward(loss)
            losses.add(nats.detach(), batch)
        limit = self._config.max_gradient_norm or math.inf
        norm = accelerator.clip_grad_norm_(self._model.parameters(), limit)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(norm)

    def _draw_alike(self, pack: int) -> None:
        """Seed dropout by the pack of the step, so that a stopped run goes on alike."""
        number = self.step * self._config.packs_per_step + pack
        processes, rank = self._accelerator.num_processes, self._accelerator.process_index
        torch.manual_seed(self._config.seed + number * processes + rank)

    def _check(self, nats: Tensor, batch: Batch) -> None:
        wrong = ~torch.isfinite(nats)
        if wrong.any():
            rows = self._not_finite_alone(batch) or batch.rows_at(wrong)
            raise TrainingError(
                f"Step {self.step + 1}: the loss is not finite at {len(rows)} rows: "
                f"{', '.join(rows[:5])}{' …' if len(rows) > 5 else ''}. Look at their tokens and "
                "texts; if they are sound, lower the learning rate."
            )

    @torch.no_grad()
    def _not_finite_alone(self, batch: Batch) -> list[str]:
        """Rows of a batch whose loss is no number by itself: within a pack that spreads."""
        found: list[str] = []
        if self._config.fsdp:  # the other processes would have to take part
            return found
        for alone in self._prepared.data.each_alone(batch):
            alone = alone.to(self._device)
            with self._accelerator.autocast():
                nats = token_losses(self._raw, alone, self._implementation)
            found += alone.rows_at(~torch.isfinite(nats))
        return found

    def _batches(self) -> Iterator[Batch]:
        """This process's packs from the present step on."""
        rank, world = self._accelerator.process_index, self._accelerator.num_processes
        stream = self._prepared.data.stream(self.step * self._per_step)
        mine = (pack for i, pack in enumerate(stream) if i % world == rank)
        loader = torch.utils.data.DataLoader(
            self._prepared.data,
            batch_size=None,
            sampler=_Sampler(mine),
            num_workers=self._config.workers,
            pin_memory=self._device.type == "cuda",
        )
        return (batch.to(self._device) for batch in loader)

    def _set_learning_rates(self) -> None:
        factor = schedule(self.step, self.steps, self._config.warmup_share)
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * factor

    def _count(self, meter: Meter, batch: Batch) -> None:
        seen = batch.inputs["position_ids"][0][batch.real].float() + 1
        processes = self._accelerator.num_processes
        # What the perception does is not counted, so with images there is no utilisation.
        flops = (
            0.0
            if batch.clip
            else step_flops(
                self._raw, positions=len(seen), kept=len(batch.kept), context=float(seen.mean())
            )
        )
        meter.add(len(seen) * processes, flops * processes)

    def _save(self) -> None:
        save_checkpoint(
            self._out,
            self.step,
            self.key,
            self._model,
            self._optimizer.optimizer,
            self._prepared.loaded,
            keep=self._config.keep,
            writes=self.is_main,
        )
        self._accelerator.wait_for_everyone()

    def _validate(self) -> None:
        if not self.validates:
            return
        if self.is_main and self._prepared.validate is not None:
            metrics = self._prepared.validate()
            self._log({f"validation/{name}": value for name, value in metrics.items()})
        self._accelerator.wait_for_everyone()

    def _log(self, metrics: Metrics) -> None:
        lr = max(group["lr"] for group in self._optimizer.param_groups)
        line = {"step": self.step, "steps": self.steps, "learning_rate": lr, **metrics}
        if self.is_main:
            with (self._out / LOG).open("a", encoding="utf-8") as f:
                f.write(json.dumps(line) + "\n")
            self._report(line)
        self._accelerator.log(line, step=self.step)


def schedule(step: int, steps: int, warmup_share: float) -> float:
    """Share of the peak learning rate at a step, from 0: a linear rise, then half a cosine."""
    warmup = max(math.ceil(steps * warmup_share), 1)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


class _Sampler(torch.utils.data.Sampler[Any]):
    """Hands on an iterator."""

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        return self._items


class _TaskLosses:
    """Mean losses since they were last read, over all targets and by task."""

    def __init__(self, tasks: list[str], device: torch.device) -> None:
        self._tasks = tasks
        self._sums = torch.zeros(2, len(tasks), dtype=torch.float64, device=device)

    def add(self, nats: Tensor, batch: Batch) -> None:
        """Count a batch."""
        for row, values in enumerate((nats * batch.weight, batch.weight)):
            self._sums[row].index_add_(0, batch.task, values.double())

    def read(self, accelerator: Accelerator) -> Metrics:
        """`loss` and `loss/<task>` over all processes; starts again."""
        sums, counts = accelerator.reduce(self._sums, reduction="sum").cpu()
        self._sums.zero_()
        metrics = {"loss": float(sums.sum() / counts.sum())}
        if len(self._tasks) > 1:
            metrics |= {
                f"loss/{name}": float(s / c)
                for name, s, c in zip(self._tasks, sums, counts, strict=True)
                if c
            }
        return metrics


def _parameter_groups(model: Any, config: TrainConfig, stage: Stage) -> list[dict[str, Any]]:
    """Parameters that learn, by their peak learning rate."""
    rates = {
        False: config.learning_rate or stage.learning_rate,
        True: config.perception_learning_rate or stage.perception_learning_rate,
    }
    groups: dict[bool, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault("perception" in name, []).append(parameter)
    return [{"params": g, "lr": rates[k], "peak": rates[k]} for k, g in sorted(groups.items())]


def check_out(out: Path) -> None:
    """Raise if a folder holds the finished model of a run.

    Raises:
        InputError: it does.
    """
    if (out / MODEL).is_dir():
        raise InputError(f"{out}: holds a finished run. Give --out a new folder.")
