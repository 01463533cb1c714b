"""The four stages of OpenDriveVLA: what is learnt, from what, how fast (paper, Table 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from odvla_bench.registry import suggest


@dataclass(frozen=True)
class Stage:
    """One stage of training."""

    name: str
    what: str
    """What the model learns in it."""
    table: str
    """Table of the build that its instructions come from."""
    trains: tuple[str, ...]
    """Parts that learn: of `PARTS`."""
    learning_rate: float
    """Of projectors and language model, for the 0.5B model."""
    perception_learning_rate: float = 0.0
    epochs: int = 1
    paper_samples: int = 0
    """Instructions that the paper reports, rounded to thousands."""


PARTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "projectors": ("model.mm_projector_",),
        "language": ("model.embed_tokens.", "model.layers.", "model.norm.", "lm_head."),
        "perception": ("model.perception.",),
    }
)
"""Part → how the names of its parameters begin."""

FROZEN = ("model.perception.img_backbone.",)
"""Parameters that never learn: the 2D backbone (paper, section 4.3)."""

STAGES: Mapping[str, Stage] = MappingProxyType(
    {
        stage.name: stage
        for stage in (
            Stage(
                "1",
                "captions of agents, scenes and maps: visual tokens become words",
                "alignment",
                ("projectors",),
                1e-4,
                paper_samples=536_000,
            ),
            Stage(
                "2",
                "questions and answers about driving",
                "instruct",
                ("projectors", "language"),
                1e-5,
                paper_samples=566_000,
            ),
            Stage(
                "2.5",
                "the motion of agents",
                "forecasting",
                ("projectors", "language"),
                1e-5,
                paper_samples=459_000,
            ),
            Stage(
                "3",
                "the plan of the ego vehicle",
                "planning",
                ("projectors", "language", "perception"),
                1e-5,
                perception_learning_rate=1e-5,
                paper_samples=28_000,
            ),
        )
    }
)
"""Stage name → stage. Warm-up, weight decay and optimiser, which the paper does not give, are
`TrainConfig`'s defaults: those of the authors' stage-3 script."""


def get_stage(name: str) -> Stage:
    """The stage of that name: "1", "2", "2.5" or "3".

    Raises:
        UnknownNameError: no such stage.
    """
    if name not in STAGES:
        raise suggest(name, list(STAGES), kind="training stage")
    return STAGES[name]


def learns(stage: Stage, parameter: str) -> bool:
    """Whether a parameter of that name learns in a stage."""
    beginnings = tuple(b for part in stage.trains for b in PARTS[part])
    return parameter.startswith(beginnings) and not parameter.startswith(FROZEN)


def freeze(model: Any, stage: Stage) -> tuple[int, int]:
    """Let only the stage's parameters learn.

    Args:
        model: an `OpenDriveVLAForConditionalGeneration`.
        stage: the stage.

    Returns:
        Parameters that learn, and parameters in all; tied ones count once.
    """
    trainable = total = 0
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(learns(stage, name))
        total += parameter.numel()
        trainable += parameter.numel() if parameter.requires_grad else 0
    return trainable, total


def learning_parts(model: Any) -> list[str]:
    """The parts of a model that have parameters that learn."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    return [part for part, begins in PARTS.items() if any(n.startswith(begins) for n in names)]
