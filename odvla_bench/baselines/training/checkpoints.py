"""Checkpoints of a training run: whole or absent, and enough to go on to the same parameters."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from odvla_bench.baselines.opendrivevla.checkpoint import CHECKPOINTS, Loaded, save_model
from odvla_bench.datasets.writer import TEMPORARY_PREFIX, write_json
from odvla_bench.errors import FormatError, InputError

_STATE = "training.json"
_OPTIMIZER = "optimizer.safetensors"
_GROUPS = "param_groups"
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def gather_state(model: torch.nn.Module) -> dict[str, Tensor]:
    """All parameters on the first process, however they are spread; a collective call."""
    state: dict[str, Any] = get_model_state_dict(model, options=_WHOLE)
    return state


def save_checkpoint(
    out: Path,
    step: int,
    key: str,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    loaded: Loaded,
    *,
    keep: int,
    writes: bool,
) -> None:
    """Write the checkpoint of a step; a collective call.

    Args:
        out: folder of the run.
        step: optimiser steps done.
        key: digest of all that decides what the next steps are.
        model: the model as it is trained.
        optimizer: its optimiser.
        loaded: the model as it is saved.
        keep: checkpoints to leave.
        writes: whether this process is the one that writes.
    """
    state, moments = gather_state(model), get_optimizer_state_dict(model, optimizer, options=_WHOLE)
    if not writes:
        return
    folder = out / CHECKPOINTS / f"step-{step:08d}"
    with whole_folder(folder) as temporary:
        save_model(loaded, temporary, state)
        _add_untouched(moments, state)
        _save_optimizer(temporary / _OPTIMIZER, moments)
        write_json(temporary / _STATE, {"step": step, "key": key})
    for old in checkpoints(out)[:-keep]:
        shutil.rmtree(old)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder's path that takes the folder's place once all is written."""
    temporary = folder.with_name(TEMPORARY_PREFIX + folder.name)
    for old in (temporary, folder):
        shutil.rmtree(old, ignore_errors=True)
    yield temporary
    temporary.rename(folder)


def checkpoints(out: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    return sorted(p for p in (out / CHECKPOINTS).glob("step-*") if (p / _STATE).is_file())


def read_step(folder: Path, key: str) -> int:
    """The step of a checkpoint.

    Raises:
        FormatError: not a checkpoint.
        InputError: one of a run with other settings or data.
    """
    try:
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        step, held = int(state["step"]), str(state["key"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{folder}: not a checkpoint of this version ({error}).") from error
    if held != key:
        raise InputError(
            f"{folder}: a checkpoint of a run with other settings, data or number of processes. "
            "Train with the same, or give --out a new folder."
        )
    return step


def load_optimizer(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint's optimiser state back; a collective call.

    Raises:
        FormatError: it belongs to other parameters.
    """
    with safe_open(folder / _OPTIMIZER, "pt") as f:
        state: dict[str, Any] = {}
        for key in f.keys():  # noqa: SIM118 (not a dict)
            parameter, _, name = key.rpartition("/")
            state.setdefault(parameter, {})[name] = f.get_tensor(key)
        whole = {"state": state, "param_groups": json.loads(f.metadata()[_GROUPS])}
    try:
        set_optimizer_state_dict(model, optimizer, whole, options=_WHOLE)
    except (KeyError, RuntimeError, ValueError) as error:
        raise FormatError(f"{folder}: its optimiser has other parameters ({error}).") from error


def _add_untouched(moments: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Give parameters that no gradient has reached the moments that AdamW will begin with."""
    for name in (name for group in moments["param_groups"] for name in group["params"]):
        if name not in moments["state"]:
            zeros = torch.zeros_like(weights[name])
            fresh = {"step": torch.tensor(0.0), "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
            moments["state"][name] = fresh


def _save_optimizer(path: Path, state: dict[str, Any]) -> None:
    tensors = {
        f"{parameter}/{name}": tensor.contiguous()
        for parameter, moments in state["state"].items()
        for name, tensor in moments.items()
    }
    save_file(tensors, path, metadata={_GROUPS: json.dumps(state["param_groups"])})
