"""Sizes and behaviours of the perception: frozen, with named presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from odvla_bench.datasets.nuscenes.tables import CAMERA_CHANNELS
from odvla_bench.errors import InputError
from odvla_bench.registry import Registry

CAMERAS = CAMERA_CHANNELS
"""The official order; scene tokens and camera embeddings follow it."""

CLASSES = (
    "car",
    "truck",
    "construction_vehicle",
    "bus",
    "trailer",
    "barrier",
    "motorcycle",
    "bicycle",
    "pedestrian",
    "traffic_cone",
)
"""Detection classes in the order of the classification scores."""

MAP_CLASSES = ("divider", "crossing", "contour")
"""Countable map classes in the order of the scores; the drivable area is the fourth."""

EncoderGradients = Literal["last", "all"]
"""Keyframes of a training clip whose images and view get gradients."""

TOKEN_WIDTH = 256
SCENE_GRID = (3, 5)
"""Rows and columns that each camera's coarsest features are pooled to."""
SCENE_TOKENS = len(CAMERAS) * SCENE_GRID[0] * SCENE_GRID[1]


@dataclass(frozen=True)
class Behaviour:
    """What to do where the official code departs from its own intention.

    Weights trained with a departure expect it: `released` goes with the official checkpoints,
    `fixed` with weights trained by this package.
    """

    name: str
    """What results are signed with."""
    first_delta_from_previous_scene: bool = True
    """The first frame's ego motion is taken from the last frame of the scene processed before,
    so that a result depends on the order of scenes; otherwise it is zero."""
    shift_current_grid: bool = True
    """Ego motion shifts the sampling grid of the present queue as well as the past one's."""
    drop_last_track: bool = True
    """The agent with the lowest score is dropped in the belief that it is the ego vehicle."""
    map_tokens_by_rank: bool = True
    """Map tokens are read at the accepted masks' ranks from the list before it was ranked."""
    first_map_class_never_occupies: bool = True
    """Dividers (class 0) do not mark the cells they cover as taken."""


BEHAVIOURS: Registry[Behaviour] = Registry(
    "perception behaviour",
    {
        "released": Behaviour("released"),
        "fixed": Behaviour(
            "fixed",
            first_delta_from_previous_scene=False,
            shift_current_grid=False,
            drop_last_track=False,
            map_tokens_by_rank=False,
            first_map_class_never_occupies=False,
        ),
    },
)


@dataclass(frozen=True)
class PerceptionConfig:
    """Sizes, thresholds and behaviour of the network; the defaults are `uniad-base`."""

    name: str = "uniad-base"
    # Backbone
    backbone_blocks: tuple[int, int, int, int] = (3, 4, 23, 3)
    backbone_width: int = 64
    # Bird's-eye view (LIDAR frame: x right, y forward)
    bev_rows: int = 200
    bev_columns: int = 200
    range_m: tuple[float, float, float, float, float, float] = (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0)
    """Extent: minimum x, y, z, then maximum x, y, z, LIDAR frame, metres."""
    encoder_layers: int = 6
    pillar_points: int = 4
    dropout: float = 0.1
    # Detection and tracking
    decoder_layers: int = 6
    queries: int = 900
    """Object queries; the ego query comes after them."""
    memory_length: int = 4
    memory_period: int = 3
    """Frames between two writes of a track's memory."""
    birth_score: float = 0.40
    active_score: float = 0.35
    miss_tolerance: int = 5
    max_agents: int = 300
    max_xy_m: float = 61.2
    max_z_m: float = 10.0
    track_block: int = 128
    """Tracks are padded to a multiple of this, so that few tensor shapes occur."""
    # Map
    map_encoder_layers: int = 6
    map_decoder_layers: int = 6
    map_queries: int = 300
    map_attention_levels: int = 4
    """Levels that the map attention's weights were made for, over the one level there is. With
    more than one, offsets and weights are read flat, as the official kernel does."""
    map_candidates: int = 100
    thing_blocks: int = 4
    stuff_blocks: int = 6
    map_score: float = 0.1
    map_overlap: float = 0.4
    behaviour: Behaviour = field(default_factory=lambda: BEHAVIOURS.get("released"))

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, int) and value <= 0:
                raise InputError(
                    f"PerceptionConfig.{entry.name} is {value}; it must be at least 1."
                )

    @property
    def cells(self) -> int:
        """Cells of the bird's-eye view."""
        return self.bev_rows * self.bev_columns


def _small() -> PerceptionConfig:
    return PerceptionConfig(
        name="uniad-small",
        backbone_blocks=(3, 4, 6, 3),
        backbone_width=16,
        bev_rows=50,
        bev_columns=50,
        encoder_layers=2,
        decoder_layers=2,
        map_encoder_layers=2,
        map_decoder_layers=2,
        thing_blocks=2,
        stuff_blocks=2,
    )


PRESETS: Registry[PerceptionConfig] = Registry(
    "perception preset", {"uniad-base": PerceptionConfig(), "uniad-small": _small()}
)


def perception_config(preset: str, *, behaviour: str = "released") -> PerceptionConfig:
    """The configuration of a preset with a named behaviour.

    Raises:
        UnknownNameError: no such preset or behaviour.
    """
    return replace(PRESETS.get(preset), behaviour=BEHAVIOURS.get(behaviour))


def to_settings(config: PerceptionConfig) -> dict[str, str | int]:
    """A configuration as a model's `config.json` has it."""
    return {
        "preset": config.name,
        "behaviour": config.behaviour.name,
        "map_attention_levels": config.map_attention_levels,
    }


def from_settings(settings: Mapping[str, Any]) -> PerceptionConfig:
    """The configuration of `to_settings`.

    Raises:
        UnknownNameError: no such preset or behaviour.
    """
    made = perception_config(settings["preset"], behaviour=settings["behaviour"])
    return replace(made, map_attention_levels=settings["map_attention_levels"])
