from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from odvla_bench.baselines.opendrivevla.checkpoint import (
    Loaded,
    from_released,
    open_model,
    save_model,
    save_released,
    to_released,
)
from odvla_bench.baselines.opendrivevla.configuration import ADDED_TOKENS, preset_config
from odvla_bench.baselines.opendrivevla.modeling import OpenDriveVLAForConditionalGeneration
from odvla_bench.errors import InputError


def logits(loaded: Loaded, features):
    ids = torch.tensor([[5, -201, -201, 7, -202, 8]])
    with torch.no_grad():
        return loaded.model.eval()(ids, **features(scene=2, track=1)).logits


@pytest.mark.golden
def test_names_and_shapes_are_the_released_ones(golden):
    described = json.loads((golden / "perception" / "state_dict_full.json").read_text())
    expected = {k: v["shape"] for k, v in described["hf_llm_and_projectors"].items()}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        expected[name] = [151_682, expected[name][1]]
    with torch.device("meta"):
        model = OpenDriveVLAForConditionalGeneration(preset_config("0.5B"))
    assert {k: list(v.shape) for k, v in to_released(model.state_dict()).items()} == expected


@pytest.mark.golden
def test_renaming_a_whole_released_checkpoint_and_back_changes_nothing(golden):
    described = json.loads((golden / "perception" / "state_dict_full.json").read_text())
    prefix = described["hf_vision_prefix"]
    names = [*described["hf_llm_and_projectors"], *(prefix + k for k in described["uniad"])]
    state = {name: torch.tensor(i) for i, name in enumerate(names)}
    ours = from_released(state)
    assert sum(k.startswith("model.perception.") for k in ours) == len(described["uniad"])
    assert to_released(ours) == state


def test_the_released_layout_round_trips_exactly(loaded, features, tmp_path):
    save_released(loaded, tmp_path / "a")
    first = open_model(str(tmp_path / "a"))
    save_released(first, tmp_path / "b")
    a, b = (load_file(tmp_path / x / "model.safetensors") for x in "ab")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert "lm_head.weight" not in a, "tied weights are stored once"
    assert torch.equal(logits(first, features), logits(loaded, features))
    assert first.processor.prompt_profile == "released"
    assert json.loads((tmp_path / "a" / "config.json").read_text())["model_type"] == "llava_qwen"


def test_perception_and_unused_tensors_of_a_released_checkpoint_are_passed_over(loaded, tmp_path):
    save_released(loaded, tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state["model.image_newline"] = torch.zeros(64)
    state["model.vision_tower.vision_tower.vision_model.query_embedding.weight"] = torch.zeros(2)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert open_model(str(tmp_path)).model.config.vocab_size == loaded.model.config.vocab_size


def test_the_rope_base_of_an_older_configuration_is_kept(loaded, tmp_path):
    save_released(loaded, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["rope_parameters"]
    (tmp_path / "config.json").write_text(json.dumps(config | {"rope_theta": 1_000_000.0}))
    assert open_model(str(tmp_path)).model.config.rope_parameters["rope_theta"] == 1_000_000.0


def test_a_repetition_penalty_beside_the_weights_is_read(loaded, tmp_path):
    save_released(loaded, tmp_path)
    assert open_model(str(tmp_path)).model.generation_config.repetition_penalty in (None, 1.0)
    file = tmp_path / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"repetition_penalty": 1.1}))
    assert open_model(str(tmp_path)).model.generation_config.repetition_penalty == 1.1


def test_shards_named_by_an_index_are_read(loaded, features, tmp_path):
    save_released(loaded, tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    halves = {"x-1.safetensors": list(state)[::2], "x-2.safetensors": list(state)[1::2]}
    for file, names in halves.items():
        save_file({n: state[n] for n in names}, tmp_path / file)
    (tmp_path / "model.safetensors").unlink()
    index = {"weight_map": {n: file for file, names in halves.items() for n in names}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(logits(open_model(str(tmp_path)), features), logits(loaded, features))


def test_our_own_directory_round_trips(loaded, features, tmp_path):
    save_model(loaded, tmp_path)
    assert torch.equal(logits(open_model(str(tmp_path)), features), logits(loaded, features))


def test_a_language_model_gets_tokens_and_projectors(tmp_path):
    vocab = {chr(c): i for i, c in enumerate(range(33, 127))}
    tokenizer = Qwen2Tokenizer(
        vocab=vocab, merges=[], additional_special_tokens=["<|im_start|>", "<|im_end|>"]
    )
    config = Qwen2Config(
        vocab_size=160,  # as Qwen2.5, more rows than tokens
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    language = Qwen2ForCausalLM(config)
    language.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    made = open_model(str(tmp_path))
    base = len(tokenizer)
    assert made.model.config.vocab_size == base + 17
    assert made.processor.tokenizer.convert_tokens_to_ids(list(ADDED_TOKENS)) == list(
        range(base, base + 17)
    )
    ids = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(
        made.model.eval()(ids).logits[..., :base], language.eval()(ids).logits[..., :base]
    )
    end = made.processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert made.model.generation_config.eos_token_id == end


def released_without(names):
    def change(folder):
        state = load_file(folder / "model.safetensors")
        save_file({k: v for k, v in state.items() if k not in names}, folder / "model.safetensors")

    return change


def with_config(**values):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | values))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_config(model_type="llama"), "type 'llama'"),
        (with_config(mm_projector_type="linear"), "projectors of type 'linear'"),
        (with_config(hidden_size=96), "misshapen"),
        (released_without({"model.norm.weight"}), "1 tensors missing.*model.norm.weight"),
        (released_without({"model.embed_tokens.weight"}), "not in the layout"),
        (lambda f: (f / "model.safetensors").unlink(), "no such file"),
        (lambda f: (f / "model.safetensors").write_bytes(b"junk"), "not a safetensors file"),
        (lambda f: (f / "config.json").write_text("["), "cannot be read as JSON"),
        (lambda f: shutil.rmtree(f), "not a folder"),
    ],
)
def test_a_damaged_or_foreign_checkpoint_is_named(loaded, tmp_path, monkeypatch, change, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "model"
    save_released(loaded, folder)
    change(folder)
    with pytest.raises(InputError, match=message):
        open_model(str(folder))
