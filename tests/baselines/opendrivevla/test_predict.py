from __future__ import annotations

import dataclasses

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LogitsProcessorList

from odvla_bench.baselines.opendrivevla import predict as module
from odvla_bench.baselines.opendrivevla.answering import Answer, Answerer, Decoding
from odvla_bench.baselines.opendrivevla.build_tokens import AnnotationTokens
from odvla_bench.baselines.opendrivevla.checkpoint import save_model, with_codec_tokens
from odvla_bench.baselines.opendrivevla.conversations import read_conversations
from odvla_bench.baselines.opendrivevla.grammar import ConstrainedWaypoints, WaypointGrammar
from odvla_bench.baselines.opendrivevla.predict import Prediction, predict
from odvla_bench.baselines.opendrivevla.prompting import make_prompting
from odvla_bench.baselines.opendrivevla.tiny import tiny_model, tiny_tokenizer
from odvla_bench.datasets.reader import open_build
from odvla_bench.datasets.waypoint_codecs import TextCodec
from odvla_bench.datasets.waypoints import get_codec
from odvla_bench.errors import InputError, UnknownNameError
from odvla_bench.predictions import read_predictions

SPLIT = "mini_val"


@pytest.fixture
def prediction(build_dir, tmp_path):
    """Constrained plans of an untrained text-only model, eight at most."""
    made = tiny_model()
    made.model.config.prompt_inputs = ["ego", "history", "command"]
    save_model(made, tmp_path / "model")
    return Prediction(
        str(tmp_path / "model"),
        build_dir,
        tmp_path / "plans.parquet",
        split=SPLIT,
        limit=8,
        decoding=Decoding(batch_size=3, constrain=True, max_new_tokens=120),
    )


def test_every_keyframe_gets_a_plan_that_the_scorer_reads(prediction, build_dir):
    found = read_predictions(predict(prediction))
    planning = open_build(build_dir).table("planning", SPLIT, ("sample_token",))
    assert list(found.sample_token) == planning["sample_token"].to_pylist()[:8]
    assert set(found.parse_status) == {"strict"}
    assert found.metadata["decoding"] == "greedy|max_new_tokens:120|constrained:yes"
    assert found.metadata["command"] == "recorded"
    assert min(pq.read_table(prediction.out)["latency_s"].to_pylist()) > 0


def test_batches_of_any_size_give_the_same_answers(prediction, build_dir):
    prompting = make_prompting(inputs=("ego", "history", "command"))
    rows = read_conversations(open_build(build_dir), "3", SPLIT, prompting, answers=False, limit=6)

    def answers(size):
        decoding = dataclasses.replace(prediction.decoding, batch_size=size, constrain=False)
        found = Answerer(tiny_model(), prompting, None, decoding).answer(rows)
        return {a.row: a.text for a in found}

    assert answers(1) == answers(4)


def test_alike_long_prompts_are_answered_together(build_dir, monkeypatch):
    prompting = make_prompting(inputs=("ego", "history", "command"))
    rows = read_conversations(open_build(build_dir), "3", SPLIT, prompting, answers=False)
    answerer = Answerer(tiny_model(), prompting, None, Decoding(batch_size=4))
    batches = []

    def note(numbers, inputs):
        batches.append(inputs["attention_mask"].sum(1).tolist())
        return (Answer(n, 0, "", 0.0) for n in numbers)

    monkeypatch.setattr(answerer, "_answer_batch", note)
    assert sorted(a.row for a in answerer.answer(rows)) == list(range(rows.num_rows))
    lengths = [n for batch in batches for n in batch]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 1


@pytest.mark.ray
@pytest.mark.slow
def test_ray_answers_what_this_process_answers(prediction, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "SHARD_ROWS", 4)
    here = read_predictions(predict(prediction))
    there = dataclasses.replace(prediction, out=tmp_path / "ray.parquet")
    assert read_predictions(predict(there, executor="ray")).fingerprint == here.fingerprint


def test_a_stopped_prediction_goes_on(prediction, monkeypatch):
    monkeypatch.setattr(module, "SHARD_ROWS", 3)
    whole = predict(prediction).read_bytes()
    prediction.out.unlink()
    answered = []
    real = module.answer_shard

    def stops(shard):
        if len(answered) == 2:
            raise KeyboardInterrupt
        answered.append(shard.start)
        return real(shard)

    monkeypatch.setattr(module, "answer_shard", stops)
    with pytest.raises(KeyboardInterrupt):
        predict(prediction)
    assert not prediction.out.exists()
    monkeypatch.setattr(module, "answer_shard", lambda s: answered.append(s.start) or real(s))
    predict(prediction)
    assert answered == [0, 3, 6]
    texts = [pq.read_table(prediction.out)["text"].to_pylist()]
    prediction.out.write_bytes(whole)
    assert texts == [pq.read_table(prediction.out)["text"].to_pylist()]


def test_processes_of_torchrun_share_the_shards(prediction, monkeypatch):
    monkeypatch.setattr(module, "SHARD_ROWS", 3)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, there in (("1", False), ("0", True)):
        monkeypatch.setenv("RANK", rank)
        predict(prediction)
        assert prediction.out.exists() == there
    assert len(read_predictions(prediction.out)) == 8


def test_further_samples_are_drawn_and_kept_beside_the_plans(prediction):
    decoding = dataclasses.replace(prediction.decoding, samples=3, temperature=2.0)
    predict(dataclasses.replace(prediction, decoding=decoding, limit=2))
    table = pq.read_table(prediction.out.with_suffix(".samples.parquet"))
    assert table["sample"].to_pylist() == [0, 1, 2, 0, 1, 2]
    assert len(set(table["text"].to_pylist()[:3])) == 3
    assert len(read_predictions(prediction.out)) == 2


def test_a_command_replaces_the_recorded_one(build_dir):
    prompting = make_prompting().with_command("turn left")
    rows = read_conversations(open_build(build_dir), "3", SPLIT, prompting, answers=False)
    assert all("\nCommand: turn left\n" in user for user in rows["user"].to_pylist())
    with pytest.raises(UnknownNameError, match="turn left"):
        make_prompting().with_command("turn lefft")


@pytest.mark.parametrize(
    ("inputs", "shown"),
    [
        (("visual", "history", "command"), (True, False, True, True)),
        (("visual", "ego", "command"), (True, True, False, True)),
        (("ego", "history", "command"), (False, True, True, True)),
        (("visual", "ego", "history"), (True, True, True, False)),
    ],
    ids=["no ego state", "no history", "text only", "no command"],
)
def test_prompts_show_what_is_asked_for(build_dir, inputs, shown):
    prompting = make_prompting(inputs=inputs)
    rows = read_conversations(open_build(build_dir), "3", SPLIT, prompting, answers=True, limit=1)
    user = rows["user"][0].as_py()
    marks = ("<SCENE>", "Ego state", "Positions in the last", "Command")
    assert tuple(mark in user for mark in marks) == shown
    assert user.endswith("<trajectory>")
    assert "\n\n" not in user


def test_tokens_and_file_are_asked_for(prediction, tmp_path):
    visual = tiny_model()
    save_model(visual, tmp_path / "visual")
    with pytest.raises(InputError, match="name a feature store with --tokens"):
        predict(dataclasses.replace(prediction, model=str(tmp_path / "visual")))
    with pytest.raises(InputError, match="written as .parquet"):
        dataclasses.replace(prediction, out=tmp_path / "plans.csv")


def test_a_visual_model_answers_from_annotation_tokens(prediction, tmp_path):
    save_model(tiny_model(), tmp_path / "visual")
    seen = dataclasses.replace(
        prediction, model=str(tmp_path / "visual"), tokens="annotations", limit=3
    )
    assert len(read_predictions(predict(seen))) == 3


def test_annotation_tokens_hold_the_agents_of_the_keyframe(build_dir):
    build = open_build(build_dir)
    source = AnnotationTokens(build, SPLIT)
    rows = build.table("agents", SPLIT, ("sample_token", "instance_id", "category"))
    token = rows["sample_token"][0].as_py()
    expected = {
        i
        for s, i, c in zip(*(rows[n].to_pylist() for n in rows.column_names), strict=True)
        if s == token and c == "vehicle.car"
    }
    found = source[token]
    assert found.scene.shape == (90, 256)
    assert expected & set(found.instance_id.tolist())
    with pytest.raises(InputError, match="no keyframe nowhere"):
        source["nowhere"]


CODECS = {"text": {}, "delta": {}, "bins": {"x_bins": 5, "y_bins": 7}}
"""Codec → options that make it small."""


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.mark.parametrize("variable", [False, True], ids=["six steps", "up to six"])
@pytest.mark.parametrize("name", CODECS)
def test_constrained_answers_always_parse(name, variable):
    made, codec = tiny_model(), get_codec(name, **CODECS[name], variable_length=variable)
    with_codec_tokens(made, codec)
    grammar = WaypointGrammar(codec, made.processor.tokenizer)
    inputs = made.processor([made.processor.encode("s", f"go {i}") for i in range(4)])
    torch.manual_seed(0)
    ids = made.model.generate(
        **inputs,
        do_sample=True,
        temperature=5.0,
        max_new_tokens=150,
        logits_processor=LogitsProcessorList([ConstrainedWaypoints(grammar)]),
    )
    answers = made.processor.decode_answers(ids)
    decoded = codec.decode_batch(answers)
    assert set(decoded.status) == {"strict"}
    steps = {codec.decode(a).x_m.size for a in answers}
    assert steps == {6} if not variable else min(steps) < 6
    assert all(a.startswith("<traj_start>") and a.endswith("<traj_end>") for a in answers)


coordinates = st.floats(-999, 999, allow_nan=False)


@given(st.lists(st.tuples(coordinates, coordinates), min_size=6, max_size=6))
def test_the_grammar_accepts_every_plan(tokenizer, points):
    codec = TextCodec()
    grammar = _grammar(tokenizer)
    x, y = zip(*points, strict=True)
    ids = tokenizer.encode(f"<traj_start>{codec.encode(x, y)}<traj_end><|im_end|>")
    for n in range(len(ids)):
        assert ids[n] in grammar.following(grammar.state_after(ids[:n]))


_GRAMMARS: dict[int, WaypointGrammar] = {}


def _grammar(tokenizer):
    return _GRAMMARS.setdefault(id(tokenizer), WaypointGrammar(TextCodec(), tokenizer))


@pytest.mark.parametrize(
    "text",
    [
        "<traj_start>[(01.00",
        "<traj_start>[(1.000",
        "<traj_start>[(1.00,1.00)]",
        "<traj_start>[(1.00)",
        "<traj_start>[(--1.00",
        "<traj_start>[(1234.00",
        "[(1.00",
        "<traj_start>[(.5",
    ],
)
def test_the_grammar_refuses_what_does_not_parse(tokenizer, text):
    grammar = _grammar(tokenizer)
    ids = tokenizer.encode(text)
    allowed = [i in grammar.following(grammar.state_after(ids[:n])) for n, i in enumerate(ids)]
    assert not all(allowed)
