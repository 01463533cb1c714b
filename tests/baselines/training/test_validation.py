from __future__ import annotations

import json

import pyarrow as pa
import pytest

from odvla_bench.baselines.opendrivevla.conversations import CONVERSATIONS, read_conversations
from odvla_bench.baselines.opendrivevla.prompting import make_prompting
from odvla_bench.baselines.training.run import train
from odvla_bench.baselines.training.validation import text_scores
from odvla_bench.datasets.reader import open_build
from odvla_bench.errors import UnknownNameError


def rows(*answers):
    """Rows of (source, recorded answer)."""
    records = [
        {
            "row_id": f"{source}:{i}",
            "task": "any",
            "sample_token": "t",
            "instance_id": -1,
            "user": "?",
            "answer": answer,
        }
        for i, (source, answer) in enumerate(answers)
    ]
    return pa.Table.from_pylist(records, schema=CONVERSATIONS)


def test_short_answers_are_right_or_wrong_and_texts_are_compared_by_words():
    recorded = rows(
        ("nuscenes_qa", "yes"), ("nuscenes_qa", "2"), ("nux", "The car stops. It is red.")
    )
    found = text_scores(["yes", "3", "the CAR stops; it is red"], recorded)
    assert found["exact_match"] == pytest.approx(1 / 3)
    assert found["accuracy/nuscenes_qa"] == 0.5
    assert found["bleu_4_word_lower/nux"] == pytest.approx(1, abs=1e-6)
    assert found["rouge_l_word_lower/nux"] == pytest.approx(1)
    assert set(found) == {
        *("exact_match", "accuracy/nuscenes_qa"),
        *(f"{metric}_word_lower/nux" for metric in ("bleu_4", "rouge_l", "cider")),
    }


def test_a_worse_text_scores_less():
    recorded = rows(("nux", "a b c d e f"), ("nux", "g h i j k l"))
    good = text_scores(["a b c d e f", "g h i j k x"], recorded)
    bad = text_scores(["a b c x y z", ""], recorded)
    assert all(bad[name] < value for name, value in good.items())


@pytest.mark.parametrize(
    ("stage", "metrics"),
    [
        ("1", {"exact_match", *(f"{m}_word_lower/{s}" for m in ("bleu_4", "rouge_l", "cider")
                                for s in ("tod3cap", "nucaption"))}),
        ("2", {"exact_match", "accuracy/nuscenes_qa",
               *(f"{m}_word_lower/{s}" for m in ("bleu_4", "rouge_l", "cider")
                 for s in ("nux", "nucaption"))}),
        ("2.5", {"ade_m", "fde_m", "failed_parses"}),
        ("3", {"l2_m", "failed_parses"}),
    ],
)  # fmt: skip
def test_each_stage_is_validated_by_its_metrics(
    config, all_stages, tmp_path, monkeypatch, stage, metrics
):
    monkeypatch.setattr(
        "odvla_bench.baselines.training.validation._MAX_NEW_TOKENS",
        dict.fromkeys(["1", "2", "2.5", "3"], 4),
    )
    settings = config(
        stage=stage,
        data=str(all_stages),
        tokens="annotations",
        inputs="visual,ego,history,command",
        limit=6,
        max_steps=2,
        validation_limit=6,
        settings=["validation_split=mini_val", "validate_every=1"],
    )
    train(settings)
    lines = [json.loads(x) for x in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    found = [line for line in lines if "validation/loss" in line]
    assert [line["step"] for line in found] == [1, 2]
    names = {name.removeprefix("validation/") for name in found[0] if "validation/" in name}
    assert names == {"loss", *metrics}
    assert found[1]["validation/loss"] < found[0]["validation/loss"]


def test_rows_to_validate_on_are_spread_over_the_split_and_its_sources(all_stages):
    build, prompting = open_build(all_stages), make_prompting()

    def ids(**options):
        table = read_conversations(build, "2", "mini_train", prompting, answers=True, **options)
        return table["row_id"].to_pylist()

    spread, everything = ids(limit=7, spread=True), ids()
    assert [row.partition(":")[0] for row in spread] == (
        ["nucaption"] * 3 + ["nuscenes_qa"] * 2 + ["nux"] * 2
    )
    assert set(spread) <= set(everything)
    of_qa = [row for row in everything if row.startswith("nuscenes_qa:")]
    assert [of_qa.index(row) for row in spread[3:5]] == [0, len(of_qa) // 2]
    assert ids(limit=7) == everything[:7]
    assert len(ids(limit=10**6, spread=True)) == len(everything)


def test_a_split_to_validate_on_that_is_not_there_is_named(config, all_stages):
    settings = config(data=str(all_stages), inputs="ego", validation_limit=4)
    with pytest.raises(UnknownNameError, match="mini_val"):
        train(settings)
