"""Training and prediction of OpenDriveVLA: packed against one by one; on a GPU, the 0.5B preset.

Tokens are those that are asked for: of an instruction with its own visual prefix. A packed run
that shares prefixes trains on the same instructions in fewer positions.
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
from odvla_bench.baselines.opendrivevla.configuration import preset_config
from odvla_bench.baselines.opendrivevla.conversations import CONVERSATIONS
from odvla_bench.baselines.opendrivevla.features import KeyframeFeatures
from odvla_bench.baselines.opendrivevla.modeling import OpenDriveVLAForConditionalGeneration
from odvla_bench.baselines.opendrivevla.prompting import make_prompting
from odvla_bench.baselines.opendrivevla.tiny import tiny_model
from odvla_bench.baselines.training.data import Batch, TrainingData
from odvla_bench.baselines.training.loss import token_losses
from odvla_bench.baselines.training.stages import STAGES
from odvla_bench.baselines.training.throughput import flops_per_token, peak_flops

KEYFRAMES, QUESTIONS = 12, 8
GPU_PACK, GPU_STEPS = 8_192, 8
PAPER_TOKENS = 420
"""Positions of an average instruction with its visual tokens; for the estimate only."""

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
        Packing("one instruction a step", 450, 1),
        Packing("packed", 1_200, 1),
        Packing("packed, one prefix a keyframe", 1_200, 8),
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
        runs = here(lambda b=batches: step(loaded.model, b, "sdpa"), repeat=3)  # type: ignore[misc]
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
        runs = here(lambda a=answerer: list(a.answer(rows)), repeat=3)  # type: ignore[misc]
        base = base or cpu(runs)
        rate, ratio = rows.num_rows / cpu(runs), base / cpu(runs)
        lines.append([f"batches of {size}", seconds(runs), f"{rate:.1f}", f"{ratio:.1f}"])
    return markdown(("prediction, `tiny`, CPU", "CPU s", "answers/s", "×"), lines)


def gpu_tables() -> str:
    """The 0.5B preset with random weights: tokens, utilisation, predictions a second."""
    tiny = tiny_model()
    config = preset_config("0.5B")
    config.eos_token_id = config.pad_token_id = tiny.processor.tokenizer.pad_token_id
    with torch.device("cuda"):
        model = OpenDriveVLAForConditionalGeneration(config)
    model.set_attn_implementation("flex_attention")
    for layer in model.model.layers:
        layer.compile()
    data = TrainingData(
        conversations(200),
        tiny.processor,
        make_prompting().profile.system,
        RandomTokens(),
        pack_length=GPU_PACK,
        rows_per_prefix=8,
        fill=True,
    )
    batches = [data[p].to(torch.device("cuda")) for p in data.packs(0)[:GPU_STEPS]]
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def pass_over() -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for batch in batches:
            with torch.autocast("cuda", torch.bfloat16):
                loss = (token_losses(model, batch, "flex_attention") * batch.weight).sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        torch.cuda.synchronize()
        return time.perf_counter() - start

    pass_over()
    took = min(pass_over() for _ in range(3))
    rate = len(batches) * GPU_PACK / took
    context = float(np.mean([float(b.inputs["position_ids"].float().mean()) for b in batches]))
    used = rate * flops_per_token(model, context=context) / peak_flops(torch.device("cuda"))
    hours = sum(s.paper_samples for s in STAGES.values()) * PAPER_TOKENS / rate / 3600
    training = markdown(
        ("0.5B, packs of 8,192, bf16", "tokens/s", "of the bf16 peak", "all stages, hours"),
        [[torch.cuda.get_device_name(), f"{rate:,.0f}", f"{used:.1%}", f"{hours:.1f} (estimate)"]],
    )
    model.set_attn_implementation("sdpa")
    answerer = Answerer(
        Loaded(model.to(torch.bfloat16), tiny.processor),
        make_prompting(),
        RandomTokens(),
        Decoding(batch_size=128, max_new_tokens=75),
    )
    rows = conversations(64)
    list(answerer.answer(rows.slice(0, 128)))
    start = time.perf_counter()
    list(answerer.answer(rows))
    rate = rows.num_rows / (time.perf_counter() - start)
    return f"{training}\n\n{markdown(('0.5B, batches of 128', 'answers/s'), [['', f'{rate:.1f}']])}"


def main() -> None:
    """Print the tables that this machine can measure."""
    torch.set_num_threads(1)
    print(training_table(), prediction_table(), sep="\n\n")
    print("\n" + (gpu_tables() if torch.cuda.is_available() else "No CUDA device: no GPU figures."))


if __name__ == "__main__":
    main()
