from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from odvla_bench.baselines.opendrivevla.configuration import (
    ADDED_TOKENS,
    BASE_VOCABULARY,
    PLACEHOLDER_IDS,
    SCENE,
    TRACK,
    preset_config,
)
from odvla_bench.baselines.opendrivevla.processing import (
    OpenDriveVLAProcessor,
    expand_slots,
    with_added_tokens,
)
from odvla_bench.baselines.opendrivevla.tiny import NUMBERS, tiny_tokenizer
from odvla_bench.errors import InputError, UnknownNameError

USER = "Map: <map_start><MAP><map_end>\nGo <trajectory>"
ANSWER = "<traj_start>[(0.00,-1.25)]<traj_end>"


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def text_of(processor, ids):
    return processor.tokenizer.decode([i for i in ids.tolist() if i >= 0])


def test_the_default_profile_is_the_same_in_training_and_prediction(tokenizer):
    processor = OpenDriveVLAProcessor(tokenizer)
    train, test = processor.encode("Sys", USER, ANSWER), processor.encode("Sys", USER)
    n = len(test.input_ids)
    np.testing.assert_array_equal(train.input_ids[:n], test.input_ids)
    assert text_of(processor, test.input_ids) == (
        "<|im_start|>system\nSys<|im_end|>\n<|im_start|>user\nMap: <map_start><map_end>\n"
        "Go <trajectory><|im_end|>\n<|im_start|>assistant\n"
    )
    assert text_of(processor, train.input_ids[train.learnt]) == f"{ANSWER}<|im_end|>"
    assert not train.learnt[:n].any()


def test_the_released_profile_doubles_the_header_in_training_only(tokenizer):
    processor = OpenDriveVLAProcessor(tokenizer, "released")
    train, test = processor.encode("Sys", USER, ANSWER), processor.encode("Sys", USER)
    assert text_of(processor, test.input_ids).startswith("<|im_start|>system\nSys<|im_end|>\n")
    assert text_of(processor, train.input_ids) == (
        "<|im_start|>system\n<|im_start|>system\nSys<|im_end|>\n<|im_start|>user\n"
        f"Map: <map_start><map_end>\nGo <trajectory><|im_end|>\n<|im_start|>assistant\n{ANSWER}"
        "<|im_end|>\n"
    )


def test_the_released_profile_learns_structure_within_the_prompt(tokenizer):
    processor = OpenDriveVLAProcessor(tokenizer, "released")
    train = processor.encode("Sys", USER, ANSWER)
    opening = "<|im_start|>assistant\n"
    structure = (
        "<|im_start|>\n<|im_start|>\n<|im_end|>\n<|im_start|>\n<map_start><map_end>\n"
        "<trajectory><|im_end|>\n"
    )
    learnt = text_of(processor, train.input_ids[train.learnt])
    assert learnt == f"{structure}{opening}{ANSWER}<|im_end|>\n"


@given(
    st.lists(st.sampled_from([3, 4, *PLACEHOLDER_IDS.values()]), max_size=12),
    st.dictionaries(st.sampled_from(list(PLACEHOLDER_IDS)), st.integers(0, 5)),
)
def test_slots_are_as_many_as_tokens_and_never_learnt(ids, counts):
    raw = np.array(ids, np.int64)
    encoded = expand_slots(raw, np.ones(len(raw), bool), counts)
    kept = encoded.input_ids[encoded.input_ids >= 0]
    np.testing.assert_array_equal(kept, raw[raw >= 0])
    for placeholder, slot in PLACEHOLDER_IDS.items():
        expected = ids.count(slot) * counts.get(placeholder, 0)
        assert (encoded.input_ids == slot).sum() == expected
    np.testing.assert_array_equal(encoded.learnt, encoded.input_ids >= 0)


def test_visual_slots_stand_where_the_text_names_them(tokenizer):
    processor = OpenDriveVLAProcessor(tokenizer)
    text = "<scene_start><SCENE><scene_end>\n<track_start><TRACK><track_end>"
    ids = processor.encode("s", text, counts={SCENE: 2}).input_ids.tolist()
    start, end, left, right = tokenizer.convert_tokens_to_ids(
        ["<scene_start>", "<scene_end>", "<track_start>", "<track_end>"]
    )
    at = ids.index(start)
    assert ids[at : at + 4] == [start, -201, -201, end]
    assert ids[ids.index(left) + 1] == right, f"no {TRACK}, nothing between the markers"


def test_answers_end_with_the_turn(tokenizer):
    processor = OpenDriveVLAProcessor(tokenizer)
    ids = tokenizer.encode(f"{ANSWER}<|im_end|>rest")
    short = tokenizer.encode("yes")
    padded = np.array([ids, short + [tokenizer.pad_token_id] * (len(ids) - len(short))])
    assert processor.decode_answers(padded) == [ANSWER, "yes"]


def test_added_tokens_follow_the_vocabulary_in_the_released_order(tokenizer):
    ids = tokenizer.convert_tokens_to_ids(list(ADDED_TOKENS))
    own = tokenizer.convert_tokens_to_ids(NUMBERS[0])
    assert ids == list(range(own - 17, own))
    assert preset_config("0.5B").vocab_size == BASE_VOCABULARY + 17 == 151_682


def test_a_tokenizer_with_some_of_the_tokens_is_refused():
    class Half:
        def get_vocab(self):
            return dict.fromkeys(ADDED_TOKENS[:5], 0)

    with pytest.raises(InputError, match="<traj_end>|scene_start"):
        with_added_tokens(Half())


def test_an_unknown_profile_is_named(tokenizer):
    with pytest.raises(UnknownNameError, match="released"):
        OpenDriveVLAProcessor(tokenizer, "relesed")


def test_the_tiny_tokenizer_is_reproducible_and_reads_any_text(tokenizer):
    assert tiny_tokenizer().get_vocab() == tokenizer.get_vocab()
    text = "Ünïcode 中 \U0001f697 (−1.5)"
    assert tokenizer.decode(tokenizer.encode(text)) == text
