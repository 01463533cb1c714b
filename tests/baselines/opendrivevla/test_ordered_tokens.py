from __future__ import annotations

import pytest
import torch

from odvla_bench.baselines.opendrivevla.checkpoint import with_codec_tokens
from odvla_bench.baselines.opendrivevla.ordered_tokens import axes, wave_rows
from odvla_bench.baselines.opendrivevla.tiny import tiny_model
from odvla_bench.datasets.waypoints import get_codec


def test_axes_are_the_runs_of_tokens():
    assert list(axes(["<x_0>", "<x_1>", "<y_0>", "<y_1>", "<y_2>"])) == [(0, 2), (2, 3)]
    assert list(axes(get_codec("bins").tokens())) == [(0, 600), (600, 800)]


@pytest.mark.parametrize("count", [5, 800])
def test_waves_have_the_deviation_asked_for(count):
    torch.manual_seed(0)
    assert wave_rows(count, 4_096, 0.1).square().mean().sqrt() == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_are_likest_to_their_neighbours(tied):
    made, codec = tiny_model(hidden_size=128), get_codec("bins")
    if not tied:
        made.model.config.tie_word_embeddings = False
        made.model.lm_head.weight = torch.nn.Parameter(made.model.lm_head.weight.clone())
    before = made.model.model.embed_tokens.weight.detach().clone()
    with_codec_tokens(made, codec)
    first = made.processor.tokenizer.convert_tokens_to_ids("<y_000>")
    for layer in (made.model.model.embed_tokens, made.model.lm_head):
        torch.testing.assert_close(layer.weight[: len(before)], before)
        rows = layer.weight.detach()[first : first + 800]
        near, far = torch.cosine_similarity(rows[300], rows[[301, 600]])
        assert near > 0.9
        assert abs(far) < 0.5


def test_codec_tokens_that_are_there_are_left_alone():
    made, codec = tiny_model(), get_codec("bins")
    with_codec_tokens(made, codec)
    before = made.model.model.embed_tokens.weight.detach().clone()
    with_codec_tokens(made, codec)
    torch.testing.assert_close(made.model.model.embed_tokens.weight, before, rtol=0, atol=0)
