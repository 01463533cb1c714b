from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import adaptive_max_pool2d
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor

from odvla_bench.baselines.opendrivevla.checkpoint import save_model
from odvla_bench.baselines.opendrivevla.configuration import (
    MAP,
    OBJECT,
    PLACEHOLDER_IDS,
    SCENE,
    TRACK,
    OpenDriveVLAConfig,
    preset_config,
)
from odvla_bench.baselines.opendrivevla.modeling import (
    OpenDriveVLAForConditionalGeneration,
    OpenDriveVLAModel,
    VisualFeatures,
)
from odvla_bench.baselines.opendrivevla.processing import OpenDriveVLAProcessor, expand_slots
from odvla_bench.errors import UnknownNameError


@pytest.mark.parametrize(
    ("preset", "total_m", "projectors_m"),
    [("0.5B", 496.9, 3.1), ("3B", 3099.6, 14.2), ("7B", 7654.2, 41.3)],
)
def test_presets_have_the_papers_parameter_counts(preset, total_m, projectors_m):
    with torch.device("meta"):
        model = OpenDriveVLAForConditionalGeneration(preset_config(preset))
    counts = {name: p.numel() for name, p in model.named_parameters()}
    assert round(sum(counts.values()) / 1e6, 1) == total_m
    projectors = sum(n for name, n in counts.items() if "mm_projector" in name)
    assert round(projectors / 1e6, 1) == projectors_m


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(UnknownNameError, match="0.5B"):
        preset_config("1B")


@pytest.fixture(scope="module")
def splicing(golden):
    """The golden case: a model with its weights, its inputs and its outputs."""
    folder = golden / "perception" / "tokens"
    weights, inputs, outputs = (
        load_file(folder / f"{name}.safetensors") for name in ("weights", "inputs", "outputs")
    )
    config = OpenDriveVLAConfig(
        vocab_size=120,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        pad_token_id=None,
    )
    model = OpenDriveVLAModel(config).eval()
    names = {name.removeprefix("model."): t for name, t in weights.items()}
    missing, unexpected = model.load_state_dict(names, strict=False)
    assert not unexpected
    assert all(name.startswith(("layers.", "norm.")) for name in missing)
    return model, inputs, outputs


def golden_features(inputs):
    pooled = adaptive_max_pool2d(inputs["img_feat_2D"][0], (3, 5))
    things, stuff = inputs["chosen_output_query_things"], inputs["output_query_stuff"]
    return {
        SCENE: pooled.flatten(2).transpose(1, 2).reshape(90, 256),
        TRACK: inputs["track_query_embeddings"],
        MAP: torch.cat([things, stuff]),
        OBJECT: inputs["track_query_embeddings"][3:4],
    }


@pytest.mark.golden
@pytest.mark.parametrize(
    ("case", "ids", "labels", "without"),
    [
        ("a", "input_ids_a", "labels_a", ()),
        ("b", "input_ids_b", None, ()),
        ("c", "input_ids_a", None, (TRACK,)),
    ],
    ids=["scene, agents, map", "agents and one object", "no agents"],
)
def test_splicing_equals_the_original(splicing, case, ids, labels, without):
    model, inputs, outputs = splicing
    raw = inputs[ids][0].numpy()
    features = golden_features(inputs)
    features |= {placeholder: torch.zeros(0, 256) for placeholder in without}
    learnt = inputs[labels][0].numpy() != -100 if labels else np.ones(len(raw), bool)
    encoded = expand_slots(raw, learnt, {p: len(f) for p, f in features.items()})
    used = {p: f if PLACEHOLDER_IDS[p] in raw else None for p, f in features.items()}
    with torch.no_grad():
        embeds = model.splice(
            torch.from_numpy(encoded.input_ids)[None],
            VisualFeatures(used[SCENE], used[TRACK], used[MAP], used[OBJECT]),
        )
    torch.testing.assert_close(embeds, outputs[f"{case}.inputs_embeds"], rtol=1e-6, atol=1e-6)
    if labels:
        np.testing.assert_array_equal(encoded.labels, outputs["a.labels"][0].numpy())


@pytest.mark.parametrize("count", [2, 4], ids=["too few", "too many"])
def test_tokens_must_be_as_many_as_slots(loaded, features, count):
    ids = torch.tensor([[5, -201, -201, -201, 6]])
    with pytest.raises(ValueError, match=f"scene_features holds {count} tokens for 3 slots"):
        loaded.model(ids, **features(scene=count))


def test_save_and_load_give_the_same_logits(loaded, features, tmp_path):
    ids = torch.tensor([[5, -201, -201, 7, -202, 8, -203, -204, 9]])
    visual = features(scene=2, track=1, map=1, object=1)
    loaded.model.save_pretrained(tmp_path)
    loaded.processor.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    for parameter in again.parameters():  # out of the mapped file, where they lie unaligned
        parameter.data = parameter.data.clone()
    assert isinstance(again, OpenDriveVLAForConditionalGeneration)
    ours, theirs = loaded.model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for parameter in again.parameters():  # not aligned in the file: kernels differ in the last bit
        parameter.data = parameter.data.clone()
    with torch.no_grad():
        assert torch.equal(again(ids, **visual).logits, loaded.model.eval()(ids, **visual).logits)
    processor = AutoProcessor.from_pretrained(tmp_path)
    before, after = (p.encode("s", "<SCENE> é", "中") for p in (loaded.processor, processor))
    np.testing.assert_array_equal(before.input_ids, after.input_ids)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_the_attention_implementation_is_chosen_and_changes_no_logit(
    loaded, features, tmp_path, implementation
):
    ids = torch.tensor([[5, -201, -201, 7, -202, 8]])
    visual = features(scene=2, track=1)
    loaded.model.save_pretrained(tmp_path)
    chosen = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=implementation)
    assert chosen.config._attn_implementation == implementation
    with torch.no_grad():
        torch.testing.assert_close(
            chosen(ids, **visual).logits, loaded.model.eval()(ids, **visual).logits
        )


def test_the_auto_classes_know_it(loaded, tmp_path):
    save_model(loaded, tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), OpenDriveVLAConfig)
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), OpenDriveVLAProcessor)
    assert (tmp_path / "model.safetensors").is_file()
    made = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    assert isinstance(made, OpenDriveVLAForConditionalGeneration)


def test_labels_give_the_loss_of_the_answer_only(loaded, features):
    encoded = loaded.processor.encode("s", "look <SCENE>", "yes", counts={SCENE: 3})
    ids, labels = (torch.from_numpy(a)[None] for a in (encoded.input_ids, encoded.labels))
    out = loaded.model(ids, labels=labels, **features(scene=3))
    positions = np.flatnonzero(encoded.learnt)
    expected = torch.nn.functional.cross_entropy(
        out.logits[0, positions - 1], ids[0, positions], reduction="mean"
    )
    torch.testing.assert_close(out.loss, expected)


def test_gradient_checkpointing_gives_the_same_gradients(loaded, features):
    ids = torch.tensor([[5, -201, -201, 7, 8]])

    def gradients():
        loaded.model.zero_grad()
        loaded.model(ids, labels=ids, **features(scene=2)).loss.backward()
        return [p.grad.clone() for p in loaded.model.parameters() if p.grad is not None]

    loaded.model.train()
    plain = gradients()
    loaded.model.gradient_checkpointing_enable({"use_reentrant": False})
    for a, b in zip(plain, gradients(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_projector_without_tokens_still_has_a_gradient(loaded):
    loaded.model(torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss.backward()
    for name, parameter in loaded.model.named_parameters():
        if "mm_projector" in name:
            assert parameter.grad is not None
            assert not parameter.grad.any()


def test_batched_generation_with_left_padding_equals_one_by_one(loaded, features):
    processor, model = loaded.processor, loaded.model.eval()
    texts = [("<SCENE>\nshort?", 2, 0), ("<SCENE>\n<TRACK> a much longer question?", 3, 2)]
    encoded = [processor.encode("s", t, counts={SCENE: s, TRACK: a}) for t, s, a in texts]
    visual = [features(scene=s, track=a, seed=i) for i, (_, s, a) in enumerate(texts)]
    options = {"max_new_tokens": 12, "do_sample": False}
    alone = [
        model.generate(**processor([e]), **v, **options)
        for e, v in zip(encoded, visual, strict=True)
    ]
    both = {name: torch.cat([v[name] for v in visual]) for name in visual[0]}
    together = model.generate(**processor(encoded), **both, **options)
    assert processor.decode_answers(together) == [processor.decode_answers(a)[0] for a in alone]
