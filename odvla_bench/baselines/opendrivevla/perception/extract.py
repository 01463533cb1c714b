"""Scenes → feature files: in time order, several scenes side by side, resumable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from odvla_bench.baselines.opendrivevla.features import (
    FeatureSettings,
    KeyframeFeatures,
    is_finished,
    note_skipped,
    write_scene,
)
from odvla_bench.baselines.opendrivevla.perception.agents import standard_boxes
from odvla_bench.baselines.opendrivevla.perception.checkpoint import LoadReport, load_checkpoint
from odvla_bench.baselines.opendrivevla.perception.config import PerceptionConfig
from odvla_bench.baselines.opendrivevla.perception.images import ImageError, read_images
from odvla_bench.baselines.opendrivevla.perception.inputs import (
    Annotations,
    FrameInputs,
    Keyframe,
    Scene,
    frame_inputs,
)
from odvla_bench.baselines.opendrivevla.perception.matching import matched_instances
from odvla_bench.baselines.opendrivevla.perception.network import (
    Frames,
    Perception,
    PerceptionState,
)
from odvla_bench.baselines.opendrivevla.perception.tokens import FrameTokens
from odvla_bench.datasets.executor import run_tasks
from odvla_bench.errors import InputError
from odvla_bench.registry import suggest

PRECISIONS = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
DECODERS = 6
SCENES_A_GROUP = 16
"""Scenes that a remote worker takes for one reading of the weights."""

Image = npt.NDArray[np.uint8]
Report = Callable[[str, int, int], None]
"""Told of each finished scene: its token, keyframes written, keyframes skipped."""


@dataclass(frozen=True)
class Extraction:
    """How features are made."""

    checkpoint: Path
    out: Path
    config: PerceptionConfig
    device: str = "cpu"
    precision: str = "fp32"
    """fp32, tf32, bf16 or fp16; geometry, softmax, norms, tracking and map are float32 in all. In
    all but fp32 a GPU may round the factors of its matrix products to TF32."""
    scenes_at_once: int = 1
    skip_bad: bool = False
    """Leave out keyframes whose images cannot be read, and name them in the ledger."""

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise suggest(self.precision, list(PRECISIONS), kind="precision")
        if self.scenes_at_once < 1:
            raise InputError(f"scenes_at_once is {self.scenes_at_once}; it must be at least 1.")


@dataclass(frozen=True)
class SceneTask:
    """A scene and what may leak into its first frame."""

    scene: Scene
    before: Keyframe | None
    """The last keyframe of the scene before it in time order."""


def scene_tasks(scenes: Iterable[Scene]) -> Iterator[SceneTask]:
    """Scenes with the keyframe that comes before each, whoever processes them and when."""
    before = None
    for scene in scenes:
        yield SceneTask(scene, before)
        before = scene.keyframes[-1]


def extract(
    tasks: Sequence[SceneTask],
    settings: Extraction,
    report: Report | None = None,
    tell: Callable[[str], None] | None = None,
) -> int:
    """Write the features of scenes that have none yet; the number of scenes written.

    Args:
        tasks: the scenes.
        settings: how features are made.
        report: told of each finished scene.
        tell: told what became of the checkpoint's keys.

    Raises:
        ImageError: an image cannot be read, without `skip_bad`.
        FormatError: features of other settings lie there.
        InputError: the checkpoint or the device cannot be used.
    """
    _check_device(settings.device)
    network, loaded = load_checkpoint(settings.checkpoint, settings.config)
    if tell:
        tell(str(loaded))
    made_with = feature_settings(settings, loaded)
    torch.backends.cuda.matmul.allow_tf32 = settings.precision != "fp32"
    torch.backends.cudnn.allow_tf32 = settings.precision != "fp32"
    network = network.to(settings.device)
    waiting = (t for t in tasks if not is_finished(settings.out, t.scene.token, made_with))
    written = 0
    with ThreadPoolExecutor(DECODERS) as decoders, ThreadPoolExecutor(1) as ahead:
        while batch := list(islice(waiting, settings.scenes_at_once)):
            runs = [_Run(task, network, settings, decoders, ahead) for task in batch]
            with torch.inference_mode(), _autocast(settings):
                _advance(network, runs, settings)
            for run in runs:
                token = run.task.scene.token
                write_scene(settings.out, token, made_with, run.features)
                written += 1
                if report:
                    report(token, len(run.features), run.skipped)
    return written


def extract_everywhere(
    tasks: Sequence[SceneTask],
    settings: Extraction,
    *,
    executor: str = "local",
    report: Report | None = None,
    tell: Callable[[str], None] | None = None,
) -> int:
    """`extract` in this process, or in groups of scenes on Ray's workers; same files either way."""
    if executor == "local":
        return extract(tasks, settings, report, tell)
    groups = [
        (tasks[i : i + SCENES_A_GROUP], settings) for i in range(0, len(tasks), SCENES_A_GROUP)
    ]
    gpus = int(torch.device(settings.device).type == "cuda")
    written = 0
    for count in run_tasks(_extract_group, groups, executor=executor, gpus=gpus):
        written += count
        if report:
            report(f"{written} scenes", written, 0)
    return written


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"The device {device!r} cannot be used here ({str(error).splitlines()[0]}). Give "
            "--device cpu or cuda:N, or leave it out."
        ) from error


def _extract_group(group: tuple[Sequence[SceneTask], Extraction]) -> int:
    return extract(*group)


def feature_settings(settings: Extraction, loaded: LoadReport) -> FeatureSettings:
    """What the features are signed with."""
    choices = {
        "preset": loaded.config.name,
        "behaviour": loaded.config.behaviour.name,
        "map-levels": str(loaded.config.map_attention_levels),
        "precision": settings.precision,
        "weights": loaded.fingerprint,
    }
    return FeatureSettings(source="perception", privileged=False, choices=choices)


class _Run:
    """One scene on its way: its readable keyframes, each read while the one before is computed."""

    def __init__(
        self,
        task: SceneTask,
        network: Perception,
        settings: Extraction,
        decoders: Executor,
        ahead: Executor,
    ) -> None:
        self.task = task
        self.features: dict[str, KeyframeFeatures] = {}
        self.skipped = 0
        self._behaviour = network.config.behaviour
        self._settings = settings
        self._decoders = decoders
        self._ahead = ahead
        self._readable = self._read()
        self._next: Future[tuple[Keyframe, Image] | None] = self._prefetch()
        self._previous: Keyframe | None = None

    def pull(self) -> tuple[Keyframe, Image, FrameInputs] | None:
        """The next keyframe with its images and inputs; None at the end."""
        found = self._next.result()
        if found is None:
            return None
        self._next = self._prefetch()
        keyframe, images = found
        inputs = frame_inputs(keyframe, self._previous, self._behaviour, self.task.before)
        self._previous = keyframe
        return keyframe, images, inputs

    def _prefetch(self) -> Future[tuple[Keyframe, Image] | None]:
        return self._ahead.submit(next, self._readable, None)

    def _read(self) -> Iterator[tuple[Keyframe, Image]]:
        for keyframe in self.task.scene.keyframes:
            images = self._images(keyframe)
            if images is not None:
                yield keyframe, images

    def _images(self, keyframe: Keyframe) -> Image | None:
        try:
            return read_images(keyframe.image_paths, self._decoders)
        except ImageError as error:
            if not self._settings.skip_bad:
                raise
            self.skipped += 1
            scene, sample = self.task.scene.token, keyframe.sample_token
            note_skipped(self._settings.out, scene, sample, str(error))
            return None


def _advance(network: Perception, runs: Sequence[_Run], settings: Extraction) -> None:
    """Take the scenes through all their keyframes, side by side."""
    state: PerceptionState | None = None
    live = list(runs)
    while live:
        pulled = [run.pull() for run in live]
        going = [i for i, frame in enumerate(pulled) if frame is not None]
        if state is not None and 0 < len(going) < len(live):
            state = state.scenes(torch.tensor(going, device=settings.device))
        live = [live[i] for i in going]
        batch = [frame for frame in pulled if frame is not None]
        if not batch:
            return
        images = np.stack([frame[1] for frame in batch])
        inputs = FrameInputs.stack([frame[2] for frame in batch])
        output, state = network(Frames.of(images, inputs, settings.device), state)
        for i, (run, (keyframe, _, _)) in enumerate(zip(live, batch, strict=True)):
            tokens = output.tokens(i, network.config)
            run.features[keyframe.sample_token] = keyframe_features(tokens, keyframe.annotations)


def keyframe_features(tokens: FrameTokens, annotations: Annotations | None) -> KeyframeFeatures:
    """The host's arrays of a keyframe's tokens, matched to its annotations where there are any."""
    boxes = standard_boxes(tokens.agent_boxes.float()).cpu().numpy()
    unknown = np.full(len(boxes), -1, np.int64)
    return KeyframeFeatures(
        scene=tokens.scene.float().cpu().numpy(),
        agents=tokens.agents.float().cpu().numpy(),
        map=tokens.map.float().cpu().numpy(),
        instance_id=(
            matched_instances(boxes[:, :7].astype(np.float64), annotations)
            if annotations is not None
            else unknown
        ),
        track_id=tokens.agent_ids.cpu().numpy(),
        boxes=boxes,
        scores=tokens.agent_scores.float().cpu().numpy(),
        labels=tokens.agent_labels.cpu().numpy(),
    )


def _autocast(settings: Extraction) -> AbstractContextManager[object]:
    kind = PRECISIONS[settings.precision]
    device = torch.device(settings.device).type
    return nullcontext() if kind is None else torch.autocast(device, kind)
