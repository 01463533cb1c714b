"""How long the perception takes, and where: `python -m benchmarks.perception`.

With a GPU: milliseconds a keyframe at full size, eager and compiled, in float32, TF32 and
bfloat16. Without one: CPU seconds of each part, and of the deformable operations against their
straightforward forms. Weights are random, images are noise, six cameras surround the car.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import Usage, cpu, here, markdown, seconds
from odvla_bench.baselines.opendrivevla.perception.config import perception_config
from odvla_bench.baselines.opendrivevla.perception.deformable import (
    deformable_attention,
    modulated_deform_conv2d,
)
from odvla_bench.baselines.opendrivevla.perception.inputs import FrameInputs, Keyframe, frame_inputs
from odvla_bench.baselines.opendrivevla.perception.network import Frames, Perception

IMAGE_SIZE = (900, 1600)
TFLOP_A_FRAME = 4.1
WARM_UP, REPEATS = 5, 20


def surround_keyframe() -> Keyframe:
    """A car with a camera every 60 degrees, 70 degrees wide."""
    forward = np.array([[0.5, -0.5, 0.5, -0.5]])
    half = np.deg2rad([0, -60, 60, 180, 120, -120]) / 2
    yaw = np.stack([np.cos(half), 0 * half, 0 * half, np.sin(half)], 1)
    level = np.array([1.0, 0, 0, 0])
    focal = IMAGE_SIZE[1] / 2 / np.tan(np.deg2rad(35))
    camera = np.array([[focal, 0, IMAGE_SIZE[1] / 2], [0, focal, IMAGE_SIZE[0] / 2], [0, 0, 1]])
    return Keyframe(
        sample_token="benchmark",
        timestamp_us=0,
        image_paths=(Path("none"),) * 6,
        intrinsics=np.tile(camera, (6, 1, 1)),
        camera_rotation_wxyz=_product(yaw, forward),
        camera_translation_m=np.tile([1.0, 0, 1.5], (6, 1)),
        camera_ego_rotation_wxyz=np.tile(level, (6, 1)),
        camera_ego_translation_m=np.zeros((6, 3)),
        lidar_rotation_wxyz=np.array([np.sqrt(0.5), 0, 0, -np.sqrt(0.5)]),
        lidar_translation_m=np.array([0.9, 0, 1.8]),
        ego_rotation_wxyz=level,
        ego_translation_m=np.zeros(3),
        can_bus=np.zeros(18),
    )


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Quaternions w, x, y, z multiplied."""
    aw, ax, ay, az = a.T
    bw, bx, by, bz = b.T
    rows = (
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    )
    return np.stack(rows, 1)


def made_up(device: str) -> tuple[Perception, Frames]:
    torch.manual_seed(0)
    network = Perception(perception_config("uniad-base", behaviour="fixed")).eval().to(device)
    with torch.no_grad():
        # Scores as a trained network has them: few tracks.
        last = network.pts_bbox_head.cls_branches[-1][-1]
        last.weight.normal_(std=0.0625)
        last.bias.fill_(-2.6)
    images = np.random.default_rng(0).integers(0, 256, (1, 6, *IMAGE_SIZE, 3), dtype=np.uint8)
    keyframe = surround_keyframe()
    inputs = FrameInputs.stack([frame_inputs(keyframe, None, network.config.behaviour)])
    return network, Frames.of(images, inputs, device)


def gpu_table(device: str) -> None:
    network, frames = made_up(device)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, one keyframe of a scene")
    print("| precision | form | ms a keyframe | TFLOP/s of 4.1 TFLOP | peak GiB |")
    print("|---|---|---|---|---|")
    for precision in ("fp32", "tf32", "bf16"):
        for form in ("eager", "compiled"):
            with torch.inference_mode():
                milliseconds, peak = gpu_time(network, frames, precision, form)
            rate = TFLOP_A_FRAME / milliseconds * 1e3
            print(f"| {precision} | {form} | {milliseconds:.1f} | {rate:.0f} | {peak:.1f} |")


def gpu_time(network: Perception, frames: Frames, precision: str, form: str) -> tuple[float, float]:
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
    torch.backends.cudnn.benchmark = True
    torch.compiler.reset()
    torch.cuda.reset_peak_memory_stats()
    run = torch.compile(network) if form == "compiled" else network
    times: list[float] = []
    with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
        _, state = run(frames, None)
        for i in range(WARM_UP + REPEATS):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            _, state = run(frames, state)
            end.record()
            torch.cuda.synchronize()
            if i >= WARM_UP:
                times.append(start.elapsed_time(end))
    return statistics.median(times), torch.cuda.max_memory_allocated() / 2**30


def cpu_table(repeats: int) -> None:
    """Where the time of a keyframe with history goes."""
    network, frames = made_up("cpu")
    print(
        f"CPU, {torch.get_num_threads()} thread(s), torch {torch.__version__}, float32, full size"
    )
    runs: dict[str, list[Usage]] = defaultdict(list)
    parts: dict[str, torch.nn.Module] = {
        "image backbone": network.img_backbone,
        "feature pyramid": network.img_neck,
        "bird's-eye view encoder": network.pts_bbox_head.transformer,
        "map head": network.seg_head,
    }
    began: dict[str, float] = {}

    def end(name: str) -> None:
        runs[name].append(Usage(time.process_time() - began[name]))

    with torch.inference_mode():
        _, state = network(frames)
        for name, part in parts.items():
            part.register_forward_pre_hook(
                lambda *_, name=name: began.__setitem__(name, time.process_time())
            )
            part.register_forward_hook(lambda *_, name=name: end(name))
        whole = here(lambda: network(frames, state), repeat=repeats)
    rest = [
        Usage(run.cpu_s - sum(runs[name][i].cpu_s for name in parts)) for i, run in enumerate(whole)
    ]
    rows = [*runs.items(), ("tracking and the rest", rest), ("all", whole)]
    print(markdown(("part", "CPU s a keyframe"), [(name, seconds(r)) for name, r in rows]))


def plain_convolution(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """The straightforward form: each tap sampled with `grid_sample`, then one matrix product."""
    batch, _, height, width = x.shape
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    taps = []
    for tap in range(9):
        y = rows + tap // 3 - 1 + offset[:, 2 * tap]
        u = columns + tap % 3 - 1 + offset[:, 2 * tap + 1]
        grid = torch.stack([(u + 0.5) / width, (y + 0.5) / height], -1) * 2 - 1
        taps.append(F.grid_sample(x, grid, align_corners=False) * mask[:, tap, None])
    sampled = torch.stack(taps, 2).flatten(1, 2)
    return torch.einsum("ok,nkhw->nohw", weight.flatten(1), sampled)


def plain_attention(
    value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """The straightforward form: `grid_sample` of each level, weighted and summed."""
    _, length, heads, channels = value.shape
    queries = len(locations)
    grids = locations.permute(1, 0, 2, 3, 4) * 2 - 1
    sampled = []
    for level, part in enumerate(value[0].split([h * w for h, w in shapes])):
        image = part.permute(1, 2, 0).reshape(heads, channels, *shapes[level])
        sampled.append(F.grid_sample(image, grids[:, :, level], align_corners=False))
    stacked = torch.stack(sampled, -2).flatten(-2)
    attention = weights.permute(1, 0, 2, 3).reshape(heads, 1, queries, -1)
    return (stacked * attention).sum(-1).permute(2, 0, 1).reshape(queries, heads * channels)


def operation_table(repeats: int) -> None:
    g = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g)

    x, weight = normal(6, 256, 58, 100), normal(256, 256, 3, 3) / 48
    offset, mask = normal(6, 18, 58, 100), normal(6, 9, 58, 100).sigmoid()
    shapes = [(116, 200), (58, 100), (29, 50), (15, 25)]
    value = normal(1, sum(h * w for h, w in shapes), 8, 32)
    locations = torch.rand(9600, 8, 4, 8, 2, generator=g)
    attention = normal(9600, 8, 32).softmax(-1).view(9600, 8, 4, 8)
    cases: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
        "modulated convolution, 6 × 256 × 58 × 100": (
            lambda: modulated_deform_conv2d(x, offset, mask, weight, padding=1),
            lambda: plain_convolution(x, offset, mask, weight),
        ),
        "image attention, 9,600 queries × 8 heads × 32 points": (
            lambda: deformable_attention(value, shapes, locations, attention),
            lambda: plain_attention(value, shapes, locations, attention),
        ),
    }
    rows = []
    with torch.inference_mode():
        for name, (ours, plain) in cases.items():
            difference = (ours() - plain()).abs().max().item()
            fast, slow = here(ours, repeat=repeats), here(plain, repeat=repeats)
            ratio = f"{cpu(slow) / cpu(fast):.1f}×"
            rows.append((name, seconds(fast), seconds(slow), ratio, f"{difference:.0e}"))
    header = ("operation", "ours, CPU s", "with grid_sample, CPU s", "ratio", "largest difference")
    print(markdown(header, rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--repeats", type=int, default=5, help="of the operations on the CPU")
    parser.add_argument("--keyframes", type=int, default=3, help="on the CPU; 0 leaves them out")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.device.startswith("cuda"):
        gpu_table(options.device)
        return
    operation_table(options.repeats)
    if options.keyframes:
        cpu_table(options.keyframes)


if __name__ == "__main__":
    main()
