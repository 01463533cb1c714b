"""Made-up language files beside a nuScenes tree, each in its source's native format.

They have the defects that the published files are known for: captions without `final_caption`,
empty or "none" parts, mixed casing, records of keyframes and boxes that nuScenes does not have, a
key that comes twice, a question repeated in a frame, keyframes without any record.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from odvla_bench.datasets.builders.nucaption import TEMPLATES, VIEWS
from odvla_bench.datasets.nuscenes.splits import split_of_scene
from odvla_bench.datasets.nuscenes.tables import NuScenesTables, load_tables, numpy_columns, poses
from odvla_bench.geometry import invert, transform_points

Record = dict[str, Any]

_COLOURS = ("blue", "White", "black", "red", "SILVER", "green", "grey")
_MOTIONS = ("moving slowly", "moving quickly", "stationary", "not moving")
_MAPS = ("in the car park area", "in the stop line area", "on the walkway", "in the crossing area")
_PLACES = ("in front of ego car", "in the back of ego car", "to the left of ego car")
_VERBS = ("slowing down", "turning left", "turning right", "going straight", "standing still")
_REASONS = (
    "because the light is red",
    "because the road ahead is clear",
    "to give way to pedestrians",
    "because the car in front is braking",
)
_SIGHTS = (
    "a few parked cars along the road",
    "a pedestrian crossing ahead",
    "a bus at a stop",
    "trees on both sides of the street",
    "construction barriers on the right",
    "an empty road",
)
_QUESTIONS = (
    ("exist", "Are there any {} {}s?", ("yes", "no")),
    ("count", "What number of {} {}s are there?", tuple(map(str, range(11)))),
    ("object", "There is a {} {}; what is it?", ("car", "truck", "traffic cone", "pedestrian")),
    ("status", "What is the status of the {} {}?", ("moving", "parked", "stopped", "with rider")),
    ("comparison", "Is the {} {} of the same status as the bus?", ("yes", "no")),
)
_STATES = ("moving", "parked", "stopped", "standing", "visible")
_THINGS = ("car", "truck", "bus", "pedestrian", "trailer", "bicycle")


@dataclass(frozen=True)
class LanguageConfig:
    """How much text is made up. The same configuration and tree give the same bytes."""

    seed: int = 0
    questions_per_keyframe: int = 14
    captions_per_keyframe: int = 6
    defects: bool = True
    """Whether the published files' defects are in."""
    sources: tuple[str, ...] = field(default=("tod3cap", "nucaption", "nuscenes_qa", "nux"))


def write_language_files(
    out: Path,
    nuscenes_root: Path,
    version: str,
    config: LanguageConfig | None = None,
    *,
    cache_dir: Path | None = None,
) -> dict[str, int]:
    """Write the files of all sources where `build-data --sources-root` finds them.

    Args:
        out: the folder; made if absent.
        nuscenes_root: a nuScenes tree, synthetic or real.
        version: of its tables.
        config: how much.
        cache_dir: parent of the caches.

    Returns:
        File → records written.
    """
    config = config or LanguageConfig()
    tables = load_tables(nuscenes_root, version, cache_dir=cache_dir)
    frames = _frames(tables)
    written: dict[str, int] = {}
    if "tod3cap" in config.sources:
        name = "final_caption_bbox_token.json"
        written[name] = _write_object(out / name, _object_captions(tables, config))
    for part, tokens in frames.items():
        rng = np.random.default_rng([config.seed, len(part)])
        if "nucaption" in config.sources:
            name = f"nucaption/{part}.json"
            written[name] = _write_list(out / name, _view_captions(tokens, rng, config))
        if "nuscenes_qa" in config.sources:
            name = f"NuScenes_{part}_questions.json"
            head = '{"info": {"description": "made up"}, "questions": '
            questions = _questions(part, tokens, rng, config)
            written[name] = _write_list(out / name, questions, head, "}")
        if "nux" in config.sources:
            name = f"Nu_X_{part}.json"
            written[name] = _write_object(out / name, _explanations(tokens, rng, config))
    return written


def _frames(tables: NuScenesTables) -> dict[str, list[str]]:
    """Keyframe tokens of the official train and val scenes."""
    names = tables.scenes["name"].to_pylist()
    frames: dict[str, list[str]] = {"train": [], "val": []}
    for token, scene in zip(
        tables.samples["token"].to_pylist(), tables.samples["scene_id"].to_pylist(), strict=True
    ):
        if (split := split_of_scene(names[scene], "")) in frames:
            frames[split].append(token)
    return frames


def _write_list(path: Path, records: Iterable[Record], head: str = "", tail: str = "") -> int:
    return _write(path, f"{head}[", (json.dumps(r) for r in records), f"]{tail}")


def _write_object(path: Path, records: Iterable[tuple[str, Record]]) -> int:
    return _write(path, "{", (f'"{key}": {json.dumps(r)}' for key, r in records), "}")


def _write(path: Path, head: str, texts: Iterable[str], tail: str) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    n = 0
    with path.open("w", encoding="utf-8") as f:
        f.write(head)
        for text in texts:
            f.write(f", {text}" if n else text)
            n += 1
        f.write(tail)
    return n


def _object_captions(
    tables: NuScenesTables, config: LanguageConfig
) -> Iterator[tuple[str, Record]]:
    """TOD3Cap: entries keyed by annotation, offsets forward and left in EGO."""
    annotations, instances = tables.annotations, tables.instances
    rng = np.random.default_rng([config.seed, 0])
    samples = tables.samples["token"].to_pylist()
    scenes = [tables.scenes["name"][i].as_py() for i in tables.samples["scene_id"].to_pylist()]
    instance_tokens = instances["token"].to_pylist()
    words = [c.split(".")[-1].replace("_", " ") for c in instances["category"].to_pylist()]
    last: tuple[str, Record] | None = None
    for start in range(0, annotations.num_rows, 65_536):
        rows = annotations.slice(start, 65_536)
        at = tables.samples.take(rows["sample_id"])
        centre = numpy_columns(rows, "x_m", "y_m", "z_m")
        ego = transform_points(invert(poses(at, "ego_")), centre)
        size = numpy_columns(rows, "width_m", "length_m", "height_m")
        ids = (rows[c].to_pylist() for c in ("token", "sample_id", "instance_id"))
        draws = rng.random((rows.num_rows, 6)).tolist()
        for token, sample, instance, place, extent, draw in zip(
            *ids, ego.tolist(), size.tolist(), draws, strict=True
        ):
            names = (samples[sample], instance_tokens[instance], scenes[sample], words[instance])
            last = token, _object_caption(names, place, extent, draw, defects=config.defects)
            yield last
    if config.defects and last:
        yield last
        yield "f" * 32, {**last[1], "sample_token": "f" * 32}


def _object_caption(
    names: tuple[str, str, str, str],
    place: list[float],
    extent: list[float],
    draw: list[float],
    *,
    defects: bool,
) -> Record:
    sample, instance, scene, word = names
    looks = f"{_pick(_COLOURS, draw[0])} {word}"
    motion, where = _pick(_MOTIONS, draw[1]), _pick(_PLACES, draw[2])
    on_map = "" if defects and draw[3] < 0.25 else _pick(_MAPS, draw[3])
    relation = "none" if defects and draw[4] < 0.4 else "in the back of a barrier"
    far = math.hypot(place[0], place[1])
    record: Record = {
        "sample_token": sample,
        "instance_token": instance,
        "scene_id": scene,
        "cam_file": f"samples/{_pick(tuple(VIEWS.values()), draw[5])}/made-up.jpg",
        "2d_bbox": [100.0, 200.0, 300.5, 400.25],
        "3d_size": extent,
        "attribute_caption": {"attribute_caption": looks, "category": word},
        "depth_caption": {"depth_caption": f"about {far:.0f} meters away", "depth": far},
        "localization_caption": {
            "localization_caption": where,
            "x_offset": place[0],
            "y_offset": place[1],
            "localization_theta": math.atan2(place[1], place[0]),
        },
        "motion_caption": {"motion_caption": motion, "x_vel": 0.0, "y_vel": 0.0, "bev_vel": 0.0},
        "map_caption": {"map_caption": on_map},
        "relation_caption": relation,
    }
    if not (defects and draw[2] < 0.5):
        record["final_caption"] = (
            f"{looks} about {far:.0f} meters away {where} is {motion} {on_map}"
        )
    return record


def _view_captions(
    tokens: list[str], rng: np.random.Generator, config: LanguageConfig
) -> Iterator[Record]:
    views = list(VIEWS)
    for token in tokens:
        for i in range(config.captions_per_keyframe):
            view = views[i % len(views)]
            if config.defects and rng.random() < 0.04:
                continue
            seen = " and ".join(_SIGHTS[j] for j in rng.choice(len(_SIGHTS), 2, replace=False))
            yield {
                "sample_token": token,
                "question": f"This is the car's {view} view. {_pick(TEMPLATES, rng.random())}",
                "answer": f"The scene shows {seen}. The sky is {_pick(_COLOURS, rng.random())}.",
                "answer_lidar": f"The scene shows {seen}.",
            }
    if config.defects and tokens:
        question = "This is the car's front view. Please describe the current scene."
        gone = {"sample_token": "f" * 32, "question": question, "answer": "The scene shows a road."}
        yield {**gone, "answer_lidar": "The scene shows a road."}


def _questions(
    part: str, tokens: list[str], rng: np.random.Generator, config: LanguageConfig
) -> Iterator[Record]:
    for number, token in enumerate(tokens):
        if config.defects and number % 1000 == 999:
            continue  # as 24 train keyframes have no question
        for i in range(config.questions_per_keyframe):
            template, text, answers = _QUESTIONS[i % len(_QUESTIONS)]
            words = (_pick(_STATES, rng.random()), _pick(_THINGS, rng.random()))
            record = {
                "split": part,
                "sample_token": token,
                "question": text.format(*words),
                "answer": _pick(answers, rng.random()),
                "num_hop": int(rng.random() > 1 / 3),
                "template_type": template,
            }
            yield record
        if config.defects and number % 50 == 7:
            yield record
    if config.defects and tokens:
        yield {**record, "sample_token": "f" * 32}


def _explanations(
    tokens: list[str], rng: np.random.Generator, config: LanguageConfig
) -> Iterator[tuple[str, Record]]:
    for token in tokens:
        narration = f"the car is {_pick(_VERBS, rng.random())}"
        yield token, {"narration": narration, "reasoning": _pick(_REASONS, rng.random())}
    if config.defects and tokens:
        yield "f" * 32, {"narration": "the car is parked", "reasoning": "it has arrived"}


def _pick(words: tuple[str, ...], draw: float) -> str:
    return words[int(draw * len(words)) % len(words)]
