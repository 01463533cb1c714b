"""Training and prediction of OpenDriveVLA: packed against one by one; on a GPU, the 0.5B preset.

On the CPU, tokens are those that are asked for: of an instruction with its own visual prefix. A
packed run that shares prefixes trains on the same instructions in fewer positions. On the GPU,
tokens are positions of a pack that are not filling, and the estimate for the paper's four stages
goes by instructions; images are not in it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.measure import cpu, here, markdown, seconds
from odvla_bench.baselines.opendrivevla.answering import Answerer, Decoding
from odvla_bench.baselines.opendrivevla.checkpoint import Loaded
from odvla_bench.baselines.opendrivevla.configuration import (
    OpenDriveVLAConfig,
    preset_config,
)
from odvla_bench.baselines.opendrivevla.conversations import CONVERSATIONS
from odvla_bench.baselines.opendrivevla.features import KeyframeFeatures
from odvla_bench.baselines.opendrivevla.modeling import OpenDriveVLAForConditionalGeneration
from odvla_bench.baselines.opendrivevla.prompting import make_prompting
from odvla_bench.baselines.opendrivevla.tiny import tiny_model
from odvla_bench.baselines.training.data import Batch, TrainingData
from odvla_bench.baselines.training.loss import token_losses
from odvla_bench.baselines.training.stages import STAGES
from odvla_bench.baselines.training.throughput import peak_flops, step_flops

RUNS = 5
KEYFRAMES, QUESTIONS = 6, 20
"""Stage 2 of the paper has 566,579 instructions about 28,130 keyframes: 20 each."""


@dataclass(frozen=True)
class Scale:
    """How much the preset is measured on."""

    keyframes: int = 200
    pack_length: int = 8_192
    packs: int = 8
    """In a pass over them, one optimiser step each."""
    answers: int = 512
    batch_size: int = 128
    new_tokens: int = 75
    """Of a plan."""


USER = (
    "Scene: <scene_start><SCENE><scene_end>\nAgents: <track_start><TRACK><track_end>\n"
    "Map: <map_start><MAP><map_end>\nEgo state: velocity (0.02,4.11) m/s, yaw rate 0.01 rad/s\n"
    "Positions in the last 2 s, every 0.5 s: [(0.0,-8.2),(0.0,-6.2),(0.0,-4.1),(0.0,-2.1)]\n"
)


class RandomTokens:
    """Twenty agents and ten map elements a keyframe."""

    signature = fingerprint = "random"

    def __getitem__(self, sample_token: str) -> KeyframeFeatures:
        """The same random tokens for every keyframe."""
        rng = np.random.default_rng(0)
        scene, agents, elements = (
            rng.normal(size=(n, 256)).astype(np.float32) for n in (90, 20, 10)
        )
        n = np.arange(20)
        return KeyframeFeatures(
            scene, agents, elements, n, n, np.zeros((20, 9), np.float32), np.ones(20, np.float32), n
        )


def conversations(keyframes: int) -> pa.Table:
    """`QUESTIONS` questions about each keyframe."""
    rows = [
        {
            "row_id": f"{k}/{q}",
            "task": "qa",
            "sample_token": f"keyframe-{k}",
            "instance_id": -1,
            "user": f"{USER}What is the status of car {q * 7 + k}?",
            "answer": f"The car number {q} is moving.",
        }
        for k in range(keyframes)
        for q in range(QUESTIONS)
    ]
    return pa.Table.from_pylist(rows, schema=CONVERSATIONS)


def step(model: Any, batches: list[Batch], implementation: str) -> None:
    """One optimiser step's worth of gradients."""
    for batch in batches:
        (token_losses(model, batch, implementation) * batch.weight).sum().backward()
    model.zero_grad()


@dataclass(frozen=True)
class Packing:
    """A way to lay instructions out."""

    name: str
    pack_length: int
    rows_per_prefix: int


def training_table() -> str:
    """CPU seconds of the same instructions, laid out in three ways."""
    loaded, rows = tiny_model(), conversations(KEYFRAMES)
    system = make_prompting().profile.system
    ways = (
        Packing("one instruction a step", 300, 1),
        Packing("packed", 1_200, 1),
        Packing("packed, a prefix for 8 of a keyframe", 1_200, 8),
        Packing("packed, one prefix a keyframe", 1_200, QUESTIONS),
    )
    lines, base, asked = [], 0.0, 0
    for way in ways:
        data = TrainingData(
            rows,
            loaded.processor,
            system,
            RandomTokens(),
            pack_length=way.pack_length,
            rows_per_prefix=way.rows_per_prefix,
        )
        batches = [data[pack] for pack in data.packs(0)]
        positions = sum(len(b.segment) for b in batches)
        asked = asked or positions
        runs = here(lambda b=batches: step(loaded.model, b, "sdpa"), repeat=RUNS)  # type: ignore[misc]
        base = base or cpu(runs)
        lines.append(
            [
                way.name,
                len(batches),
                positions,
                seconds(runs),
                f"{asked / cpu(runs):,.0f}",
                f"{base / cpu(runs):.1f}",
            ]
        )
    header = ("training, `tiny`, CPU", "sequences", "positions", "CPU s", "asked tokens/s", "×")
    return markdown(header, lines)


def prediction_table() -> str:
    """CPU seconds of greedy answers, one by one and in batches."""
    loaded, rows = tiny_model(), conversations(8)
    loaded.model.generation_config.eos_token_id = None  # random weights would stop anywhere
    loaded.model.config.eos_token_id = None
    lines, base = [], 0.0
    for size in (1, 8, 32):
        decoding = Decoding(batch_size=size, max_new_tokens=32)
        answerer = Answerer(loaded, make_prompting(), RandomTokens(), decoding)
        runs = here(lambda a=answerer: list(a.answer(rows)), repeat=RUNS)  # type: ignore[misc]
        base = base or cpu(runs)
        rate, ratio = rows.num_rows / cpu(runs), base / cpu(runs)
        lines.append([f"batches of {size}", seconds(runs), f"{rate:.1f}", f"{ratio:.1f}"])
    return markdown(("prediction, `tiny`, CPU", "CPU s", "answers/s", "×"), lines)


def preset_tables(
    config: OpenDriveVLAConfig, device: torch.device, scale: Scale, *, compiled: bool = True
) -> str:
    """A preset with random weights: tokens, utilisation and answers a second of wall time.

    Args:
        config: of the model.
        device: where to measure.
        scale: how much.
        compiled: compile the decoder layers and skip masked blocks, as `compile=true` trains.
    """
    tiny = tiny_model()
    config.eos_token_id = config.pad_token_id = tiny.processor.tokenizer.pad_token_id
    with device:
        model = OpenDriveVLAForConditionalGeneration(config)
    implementation = "flex_attention" if compiled else "sdpa"
    model.set_attn_implementation(implementation)
    for layer in model.model.layers if compiled else ():
        layer.compile()
    batches, instructions = _packs(tiny, device, scale)
    took = _training_seconds(model, batches, device, implementation)
    tokens = sum(int(b.real.sum()) for b in batches)
    flops = sum(_flops(model, b) for b in batches)
    peak = peak_flops(device)
    hours = sum(s.paper_samples for s in STAGES.values()) * took / instructions / 3600
    training = markdown(
        (
            f"training, packs of {scale.pack_length:,}, bf16",
            *("tokens/s", "of the bf16 peak", "instructions/s", "the paper's 1.6 M, hours"),
        ),
        [
            (
                torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
                f"{tokens / took:,.0f}",
                f"{flops / took / peak:.1%}" if peak else "-",
                f"{instructions / took:,.1f}",
                f"{hours:,.1f} (estimate)",
            )
        ],
    )
    rate = _answers_per_second(model, tiny.processor, scale)
    header = (f"prediction, {scale.new_tokens} new tokens, bf16", "answers/s")
    return f"{training}\n\n{markdown(header, [(f'batches of {scale.batch_size}', f'{rate:.1f}')])}"


def _packs(tiny: Loaded, device: torch.device, scale: Scale) -> tuple[list[Batch], int]:
    """Packs that share prefixes, all of one length, and the instructions in them."""
    data = TrainingData(
        conversations(scale.keyframes),
        tiny.processor,
        make_prompting().profile.system,
        RandomTokens(),
        pack_length=scale.pack_length,
        rows_per_prefix=QUESTIONS,
        fill=True,
    )
    batches = [data[pack].to(device) for pack in data.packs(0)[: scale.packs]]
    return batches, sum(len(rows) for batch in batches for rows in batch.rows)


def _training_seconds(
    model: Any, batches: list[Batch], device: torch.device, implementation: str
) -> float:
    """Wall seconds of a step on each pack; the least of three passes after one to warm up."""
    optimizer = torch.optim.AdamW(model.parameters(), fused=device.type == "cuda")

    def pass_over() -> float:
        start = _now(device)
        for batch in batches:
            with torch.autocast(device.type, torch.bfloat16):
                loss = (token_losses(model, batch, implementation) * batch.weight).sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return _now(device) - start

    pass_over()
    return min(pass_over() for _ in range(3))


def _flops(model: Any, batch: Batch) -> float:
    seen = batch.inputs["position_ids"][0][batch.real].float() + 1
    context = float(seen.mean())
    return step_flops(model, positions=len(seen), kept=len(batch.kept), context=context)


def _answers_per_second(model: Any, processor: Any, scale: Scale) -> float:
    """Greedy answers of full length."""
    model.set_attn_implementation("sdpa")
    loaded = Loaded(model.to(torch.bfloat16), processor)
    loaded.model.generation_config.eos_token_id = None  # random weights would stop anywhere
    loaded.model.config.eos_token_id = None
    decoding = Decoding(batch_size=scale.batch_size, max_new_tokens=scale.new_tokens)
    answerer = Answerer(loaded, make_prompting(), RandomTokens(), decoding)
    rows = conversations(scale.answers // QUESTIONS)
    list(answerer.answer(rows.slice(0, scale.batch_size)))
    start = _now(model.device)
    list(answerer.answer(rows))
    return rows.num_rows / (_now(model.device) - start)


def _now(device: torch.device) -> float:
    """Wall seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def main() -> None:
    """Print the tables that this machine can measure."""
    torch.set_num_threads(1)
    print(training_table(), prediction_table(), sep="\n\n")
    if torch.cuda.is_available():
        print("\n0.5B with random weights, the language side alone:\n")
        print(preset_tables(preset_config("0.5B"), torch.device("cuda"), Scale()))
    else:
        print("\nNo CUDA device: no GPU figures.")


if __name__ == "__main__":
    main()
