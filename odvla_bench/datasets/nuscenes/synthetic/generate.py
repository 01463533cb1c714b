"""Whole nuScenes trees: which scenes, how long, and everything in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np

from odvla_bench.datasets.nuscenes.splits import SPLITS_OF_VERSION, scenes_of, split_of_scene
from odvla_bench.datasets.nuscenes.synthetic.agents import AgentOptions, populate
from odvla_bench.datasets.nuscenes.synthetic.can_bus import CAN_MESSAGES, write_can_bus
from odvla_bench.datasets.nuscenes.synthetic.ego import EgoDrive, random_drive
from odvla_bench.datasets.nuscenes.synthetic.images import write_images
from odvla_bench.datasets.nuscenes.synthetic.maps import write_maps
from odvla_bench.datasets.nuscenes.synthetic.records import EgoPoses, IntArray, Log, SceneRecord
from odvla_bench.datasets.nuscenes.synthetic.sensors import REAL_IMAGE_SIZE
from odvla_bench.datasets.nuscenes.synthetic.tables import TreeWriter
from odvla_bench.datasets.nuscenes.synthetic.tokens import TokenSource
from odvla_bench.datasets.nuscenes.synthetic.town import town
from odvla_bench.errors import InputError
from odvla_bench.geometry import FloatArray, rotation_from_quaternion, yaw_of
from odvla_bench.registry import suggest

# Keyframes of the real splits.
_KEYFRAMES = {"train": 28_130, "val": 6_019, "test": 6_008}

# First scene number of each stretch of scenes that lie in one location, after the real data.
_LOCATION_FROM = (
    (1, "singapore-onenorth"),
    (62, "boston-seaport"),
    (120, "singapore-onenorth"),
    (161, "boston-seaport"),
    (177, "singapore-queenstown"),
    (190, "singapore-onenorth"),
    (199, "boston-seaport"),
    (221, "singapore-onenorth"),
    (222, "boston-seaport"),
    (268, "singapore-onenorth"),
    (283, "boston-seaport"),
    (315, "singapore-queenstown"),
    (321, "boston-seaport"),
    (344, "singapore-onenorth"),
    (388, "boston-seaport"),
    (399, "singapore-hollandvillage"),
    (420, "singapore-queenstown"),
    (440, "boston-seaport"),
    (786, "singapore-queenstown"),
    (803, "boston-seaport"),
    (847, "singapore-queenstown"),
    (868, "boston-seaport"),
    (916, "singapore-queenstown"),
    (945, "singapore-onenorth"),
    (992, "singapore-queenstown"),
    (1044, "singapore-hollandvillage"),
)
_SCENES_PER_LOG = 12


@dataclass(frozen=True)
class SyntheticConfig:
    """What a synthetic tree holds. The same configuration gives the same bytes."""

    version: str = "v1.0-mini"
    """One of "v1.0-mini", "v1.0-trainval", "v1.0-test"; the test set has no boxes."""
    n_scenes: int = 2
    """Scenes with samples; at most as many as the version's official splits have."""
    seed: int = 0
    val_share: float | None = None
    """Share of scenes from the validation split; the official one if None."""
    empty_scenes: int = 0
    """Further scenes that are listed but have no samples, as in a partial copy of the data."""
    keyframes: int | None = None
    """Keyframes of every scene; if None they vary, and all 850 scenes have 34,149."""
    sweeps: bool = True
    """Sensor messages between keyframes too: 77 a keyframe in all, else 12."""
    agents: AgentOptions = field(default_factory=AgentOptions)
    blocks: int = 7
    """Streets each way in a town."""
    lidarseg: bool = False
    """The 32 categories of nuScenes-lidarseg, with their index."""
    can_bus: bool = True
    can_messages: tuple[str, ...] = CAN_MESSAGES
    can_rate: float = 1.0
    """Share of the real message rates (vehicle_monitor's 2 Hz excepted)."""
    maps: bool = True
    image_size: tuple[int, int] | None = None
    """Width and height of the pictures to write, pixels; None writes none (tables: 1600 x 900)."""


@dataclass(frozen=True)
class SyntheticSummary:
    """What was written."""

    root: Path
    version: str
    scenes: tuple[str, ...]
    """Scenes with samples, ascending."""
    rows: dict[str, int]
    """Rows of each table."""


def write_nuscenes(root: Path, config: SyntheticConfig) -> SyntheticSummary:
    """Write a tree that nuscenes-devkit loads.

    A scene's samples, motion and boxes depend on its name, the seed and the options, and not on
    the other scenes.

    Args:
        root: the tree's folder; made if absent.
        config: what it holds.

    Raises:
        UnknownNameError: no such version.
        InputError: more scenes than the version has, or another value out of range.
    """
    names, empty = scene_names(config)
    image_size = config.image_size or REAL_IMAGE_SIZE
    writer = TreeWriter(
        root,
        config.version,
        seed=config.seed,
        sweeps=config.sweeps,
        lidarseg=config.lidarseg,
        image_size=image_size,
    )
    with writer:
        for scene in scene_records(config):
            writer.add_scene(scene, with_samples=scene.name not in empty)
            if scene.name in empty:
                continue
            if config.can_bus:
                rate = config.can_rate
                write_can_bus(root / "can_bus", scene, config.can_messages, config.seed, rate=rate)
            if config.image_size:
                write_images(root, scene, config.seed, config.image_size)
    write_maps(root, config.blocks, expansion=config.maps)
    return SyntheticSummary(root, config.version, names, dict(writer.rows))


def scene_records(config: SyntheticConfig) -> Iterator[SceneRecord]:
    """The scenes of a tree in the order of their names, made one at a time.

    Raises:
        UnknownNameError: no such version.
        InputError: more scenes than the version has, or another value out of range.
    """
    names, empty = scene_names(config)
    for name in sorted((*names, *empty)):
        yield _scene(config, name)


def location_of(scene: str) -> str:
    """The location of a scene by its name, after the real data where that is public."""
    number = int(scene[-4:])
    return next(place for first, place in reversed(_LOCATION_FROM) if number >= first)


def keyframe_count(scene: str, seed: int) -> int:
    """Keyframes of a scene, 39 to 42; over a whole official split they add up to the real count."""
    split = next(s for s in _KEYFRAMES if scene in scenes_of(s))
    index, total = scenes_of(split).index(scene), len(scenes_of(split))
    even = (index + 1) * _KEYFRAMES[split] // total - index * _KEYFRAMES[split] // total
    pair = np.random.default_rng([seed, index // 2]).choice([-1, 0, 1], p=[0.2, 0.6, 0.2])
    return int(even + (pair if index % 2 == 0 else -pair))


def _check(config: SyntheticConfig) -> None:
    """Raise InputError for a value out of range."""
    unknown = set(config.can_messages) - set(CAN_MESSAGES)
    faults = {
        "keyframes must be 2 or more": config.keyframes is not None and config.keyframes < 2,
        "empty_scenes must be 0 or more": config.empty_scenes < 0,
        "image_size must be 16 pixels or more": min(config.image_size or (16,)) < 16,
        "blocks must be 3 or more": config.blocks < 3,
        "agents.per_keyframe must be 0 or more": config.agents.per_keyframe < 0,
        "can_rate must be above 0 and at most 1": not 0 < config.can_rate <= 1,
        f"can_messages must be of {', '.join(CAN_MESSAGES)}": bool(unknown),
        "seed must be 0 or more": config.seed < 0,
        "val_share must be from 0 to 1": not 0 <= (config.val_share or 0) <= 1,
    }
    for fault, found in faults.items():
        if found:
            raise InputError(f"Synthetic tree: {fault}; given {config}.")


def scene_names(config: SyntheticConfig) -> tuple[tuple[str, ...], frozenset[str]]:
    """The scenes with samples, ascending, and those only listed.

    Raises:
        UnknownNameError: no such version.
        InputError: more scenes than the version has, or another value out of range.
    """
    _check(config)
    if config.version not in SPLITS_OF_VERSION:
        raise suggest(config.version, list(SPLITS_OF_VERSION), kind="nuScenes version")
    splits = [scenes_of(split) for split in SPLITS_OF_VERSION[config.version]]
    total = sum(map(len, splits))
    if config.n_scenes < 1 or config.n_scenes + config.empty_scenes > total:
        raise InputError(
            f"{config.version} has {total} scenes, but n_scenes={config.n_scenes} and "
            f"empty_scenes={config.empty_scenes} were asked for: ask for 1 to {total} in all."
        )
    counts = [config.n_scenes]
    if len(splits) == 2:
        counts = _train_and_val(config, [len(s) for s in splits])
    chosen = [s[i * len(s) // n] for s, n in zip(splits, counts, strict=True) for i in range(n)]
    rest = [name for split in splits for name in split if name not in set(chosen)]
    return tuple(sorted(chosen)), frozenset(rest[: config.empty_scenes])


def _train_and_val(config: SyntheticConfig, sizes: list[int]) -> list[int]:
    """How many scenes of each split: by share, one at least where there are two or more."""
    share = sizes[1] / sum(sizes) if config.val_share is None else config.val_share
    val = round(config.n_scenes * share)
    if config.n_scenes > 1 and config.val_share is None:
        val = max(val, 1)
    val = min(max(val, config.n_scenes - sizes[0]), sizes[1])
    return [config.n_scenes - val, val]


def _scene(config: SyntheticConfig, name: str) -> SceneRecord:
    source = TokenSource(config.seed, name)
    frames = config.keyframes or keyframe_count(name, config.seed)
    log, start_us = _log_of(name)
    keyframe_us = start_us + _keyframe_times_us(source.generator("clock"), frames)
    time_s = (keyframe_us - keyframe_us[0]) / 1e6
    streets = town(location_of(name), config.blocks)
    drive = random_drive(streets, source.generator("ego"), duration_s=time_s[-1] + 4)

    def ego_at(time_us: IntArray) -> EgoPoses:
        return drive.poses_at((time_us - keyframe_us[0]) / 1e6)

    boxes = None
    if split_of_scene(name, config.version) != "test":
        boxes = populate(drive, time_s, source.generator("agents"), config.agents)
    description = _description(drive, time_s, source.generator("description"))
    return SceneRecord(name, description, log, keyframe_us, ego_at, boxes)


def _keyframe_times_us(rng: np.random.Generator, frames: int) -> IntArray:
    """Half-second steps that waver by a fraction of a millisecond, a few off by a lidar turn."""
    steps = 499_700 + rng.integers(-400, 600, frames)
    steps += 50_000 * rng.choice([-1, 0, 1], frames, p=[0.02, 0.96, 0.02])
    return np.cumsum(steps)


def _log_of(name: str) -> tuple[Log, int]:
    """A scene's log, shared with its neighbours in number, and the scene's start, microseconds."""
    place, group = location_of(name), int(name[-4:]) // _SCENES_PER_LOG
    boston = place.startswith("boston")
    zone = timezone(timedelta(hours=-4 if boston else 8))
    day = datetime(2018, 7, 2, tzinfo=zone) + timedelta(days=group)
    start = day + timedelta(hours=9 + group % 8, minutes=group * 7 % 60, seconds=group * 11 % 60)
    vehicle = "n008" if boston else "n015"
    logfile = f"{vehicle}-{start:%Y-%m-%d-%H-%M-%S%z}"
    log = Log(logfile, vehicle, f"{start:%Y-%m-%d}", place)
    return log, int(start.timestamp()) * 1_000_000 + int(name[-4:]) % _SCENES_PER_LOG * 30_000_000


def _description(drive: EgoDrive, time_s: FloatArray, rng: np.random.Generator) -> str:
    """Comma-separated words about the drive, light and weather, as the real ones are."""
    poses = drive.poses_at(time_s)
    yaw = np.unwrap(yaw_of(rotation_from_quaternion(poses.rotation_wxyz)))
    step_m = np.linalg.norm(np.diff(poses.translation_m, axis=0), axis=1)
    words = ["Synthetic"]
    if np.ptp(yaw) > 1:
        words.append("turn left" if yaw[-1] > yaw[0] else "turn right")
    if step_m.min() < 0.1:
        words.append("wait")
    words += [word for word in ("night", "rain") if rng.random() < 0.12]
    return ", ".join(words)
