from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odvla_bench.baselines.opendrivevla.configuration import OBJECT, PLACEHOLDER_IDS
from odvla_bench.baselines.opendrivevla.conversations import CONVERSATIONS
from odvla_bench.baselines.opendrivevla.processing import Encoded
from odvla_bench.baselines.training.attention import packed_mask
from odvla_bench.baselines.training.data import TrainingData
from odvla_bench.baselines.training.loss import token_losses
from odvla_bench.baselines.training.packing import (
    Example,
    joined,
    lay_out,
    plan_packs,
    shared_length,
)
from odvla_bench.errors import InputError

PROMPT = "<scene_start><SCENE><scene_end>\n<track_start><TRACK><track_end>\nSpeed (1.25,2.50)\n"


def example(ids, learnt, row="r", agent=-1):
    ids = np.array(ids, np.int64)
    return Example(row, 0, Encoded(ids, np.isin(np.arange(len(ids)), learnt)), agent)


def test_a_common_beginning_stands_once():
    whole = lay_out([example([1, 2, 3, 4, 5], [4]), example([1, 2, 3, 6, 7, 8], [4, 5])])
    # Beginning 1 2; its last id stays in the branches, which differ in what follows it.
    assert whole.input_ids.tolist() == [1, 2, 3, 4, 5, 3, 6, 7, 8]
    assert whole.position.tolist() == [0, 1, 2, 3, 4, 2, 3, 4, 5]
    assert whole.branch.tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert whole.target.tolist() == [-100, -100, -100, 5, -100, -100, 7, 8, -100]
    assert whole.weight.tolist() == [0, 0, 0, 1, 0, 0, 1, 1, 0]


def test_a_target_in_the_common_beginning_counts_for_each_instruction():
    whole = lay_out([example([1, 2, 3, 4], [1, 3]), example([1, 2, 3, 5], [3])])
    assert whole.target[:2].tolist() == [2, -100]
    assert whole.weight[:2].tolist() == [1, 0]
    both = lay_out([example([1, 2, 3, 4], [1]), example([1, 2, 3, 5], [1])])
    assert both.weight[:2].tolist() == [2, 0]


@pytest.mark.parametrize(
    ("sequences", "length"),
    [
        ([[1, 2, 3]], 0),
        ([[1, 2, 3], [1, 2, 4]], 1),
        ([[1, 2], [1, 2, 3]], 1),
        ([[5, 2], [1, 2]], 0),
        ([[1, 2, PLACEHOLDER_IDS[OBJECT], 4], [1, 2, PLACEHOLDER_IDS[OBJECT], 4]], 1),
    ],
    ids=["alone", "differ at the end", "one within the other", "nothing", "up to an object"],
)
def test_shared_length(sequences, length):
    assert shared_length([np.array(s) for s in sequences]) == length


def test_instructions_do_not_see_each_other():
    first = lay_out([example([1, 2, 3], [2]), example([1, 2, 4], [2])])
    whole = joined([first, lay_out([example([7, 8], [1])])], length=9, pad_id=0)
    mask = packed_mask(torch.from_numpy(whole.segment), torch.from_numpy(whole.branch), "sdpa")
    # 1 | 2 3 | 2 4 | 7 8 | two of padding
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0, 0],
        [1, 0, 0, 1, 0, 0, 0, 0, 0],
        [1, 0, 0, 1, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 0, 1, 1],
    ]


def test_the_flex_mask_is_the_sdpa_mask():
    whole = joined(
        [
            lay_out([example([1, 2, 3, i], [3]) for i in (4, 5, 6)]),
            lay_out([example(list(range(200)), [7])]),
        ]
    )
    segment, branch = torch.from_numpy(whole.segment), torch.from_numpy(whole.branch)
    block, dense = (packed_mask(segment, branch, i) for i in ("flex_attention", "sdpa"))
    n = torch.arange(len(segment))
    rule = block.mask_mod(torch.tensor(0), torch.tensor(0), n[:, None], n[None])
    assert torch.equal(rule, dense[0, 0])
    assert packed_mask(segment, branch, "flash_attention_2") is None


@settings(max_examples=30)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=300), st.integers(50, 200))
def test_packs_hold_every_item_once_and_never_too_much(lengths, capacity):
    sizes = np.array(lengths)
    packs = list(plan_packs(sizes, capacity, np.arange(len(sizes))))
    assert sorted(np.concatenate(packs).tolist()) == list(range(len(sizes)))
    assert all(sizes[pack].sum() <= capacity for pack in packs)


def test_packs_are_nearly_full():
    sizes = np.random.default_rng(0).integers(100, 600, 3000)
    packs = list(plan_packs(sizes, 4096, np.arange(3000)))
    assert sizes.sum() / (len(packs) * 4096) > 0.98


def conversations(keyframes=3, questions=3):
    rows = [
        {
            "row_id": f"{k}/{q}",
            "task": ("qa", "caption")[q % 2],
            "sample_token": f"keyframe-{k}",
            "instance_id": q if q == 2 else -1,
            "user": PROMPT + ("<OBJECT> what?" if q == 2 else f"question {q * k}"),
            "answer": f"answer {q} to {k}",
        }
        for k in range(keyframes)
        for q in range(questions)
    ]
    return pa.Table.from_pylist(rows, schema=CONVERSATIONS)


def loss_and_gradients(tiny, tokens, implementation="sdpa", **how):
    data = TrainingData(conversations(), tiny.processor, "System.", tokens, **how)
    tiny.model.set_attn_implementation(implementation)
    tiny.model.zero_grad()
    total = count = 0.0
    for pack in data.packs(0):
        batch = data[pack]
        loss = (token_losses(tiny.model, batch, implementation) * batch.weight).sum()
        loss.backward()
        total, count = total + float(loss.detach()), count + float(batch.weight.sum())
    gradients = [p.grad / count for p in tiny.model.parameters()]
    return total / count, gradients, len(data.packs(0))


@pytest.mark.parametrize("profile", ["default", "released"])
@pytest.mark.parametrize(
    "how",
    [
        {"pack_length": 2000},
        {"pack_length": 2000, "rows_per_prefix": 8},
        {"pack_length": 700, "rows_per_prefix": 2, "fill": True},
    ],
    ids=["packed", "sharing a prefix", "sharing, filled up"],
)
def test_packed_training_is_separate_training(tiny, tokens, profile, how):
    tiny.processor.prompt_profile = profile
    alone, expected, n_alone = loss_and_gradients(tiny, tokens, pack_length=230)
    packed, gradients, n_packed = loss_and_gradients(tiny, tokens, **how)
    assert n_packed < n_alone == 9
    assert packed == pytest.approx(alone, abs=1e-5)
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_sharing_a_prefix_makes_sequences_shorter(tiny, tokens):
    def positions(rows_per_prefix):
        data = TrainingData(
            conversations(),
            tiny.processor,
            "System.",
            tokens,
            pack_length=4000,
            rows_per_prefix=rows_per_prefix,
        )
        return sum(len(data[pack].segment) for pack in data.packs(0))

    assert positions(8) < positions(1) / 2


def test_object_slots_take_the_token_of_their_agent(tiny, tokens):
    data = TrainingData(
        conversations(), tiny.processor, "", tokens, pack_length=4000, rows_per_prefix=8
    )
    (pack,) = data.packs(0)
    batch = data[pack]
    samples = [rows[0].split("/")[0] for rows in batch.rows]
    expected = np.stack([tokens[f"keyframe-{s}"].agents[2] for s in samples])
    np.testing.assert_array_equal(batch.inputs["object_features"].numpy(), expected)


def test_what_cannot_be_used_is_counted(tiny, tokens):
    rows = conversations().to_pylist()
    rows[2]["instance_id"] = 77
    rows[0]["user"] = PROMPT + "long " * 300
    table = pa.Table.from_pylist(rows, schema=CONVERSATIONS)
    data = TrainingData(table, tiny.processor, "", tokens, pack_length=500)
    assert (data.left.unseen_agents, data.left.too_long, data.rows) == (1, 1, 7)
    with pytest.raises(InputError, match="8 are longer than a pack of 20 .*1 are about agents"):
        TrainingData(table, tiny.processor, "", tokens, pack_length=20)


def test_the_order_depends_on_seed_and_epoch_only(tiny, tokens):
    def order(seed, epoch):
        data = TrainingData(
            conversations(8), tiny.processor, "", tokens, pack_length=600, seed=seed
        )
        return [pack.tolist() for pack in data.packs(epoch)]

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(2, 0)
    assert order(1, 0) != order(1, 1)


def test_the_stream_goes_on_in_the_middle(tiny, tokens):
    data = TrainingData(conversations(8), tiny.processor, "", tokens, pack_length=600)
    n = len(data.packs(0))
    whole = [pack.tolist() for pack, _ in zip(data.stream(), range(2 * n), strict=False)]
    rest = [pack.tolist() for pack, _ in zip(data.stream(n - 2), range(n), strict=False)]
    assert rest == whole[n - 2 : 2 * n - 2]
