"""Caption and Nu-X profiles on cases worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from odvla_bench.errors import PredictionError
from odvla_bench.metrics.text.profiles import (
    PROFILES,
    CaptionProfile,
    NuxParts,
    NuxProfile,
    ScoreOptions,
    hintad_text,
    score_captions,
    score_nux,
)
from odvla_bench.metrics.text.tables import Resampling

NO_INTERVALS = ScoreOptions(resampling=Resampling(resamples=0))


def nux(name: str, tokenizer: str | None = None) -> NuxProfile:
    """A Nu-X profile without METEOR, so that no Java is needed for a tokenizer that has none."""
    profile = PROFILES.get(name)
    assert isinstance(profile, NuxProfile)
    return replace(profile, metrics=("rouge_l",), tokenizer=tokenizer or profile.tokenizer)


def captions(name: str) -> CaptionProfile:
    profile = PROFILES.get(name)
    assert isinstance(profile, CaptionProfile)
    return profile


TRUTH = NuxParts("the car stops", "because the light is red")


@pytest.mark.parametrize(
    ("prediction", "narration", "reasoning"),
    [
        (hintad_text(TRUTH), 1.0, 1.0),
        # "the car drives at 1" against "the car stops": 2 common of 5 and of 3 tokens.
        # F = 2.44 · 0.4 · 2/3 / (2/3 + 1.44 · 0.4) = 0.523605…
        (
            "Narration: the car drives at 1.5 m/s. Reasoning: because the light is red.",
            2.44 * 0.4 * (2 / 3) / (2 / 3 + 1.44 * 0.4),
            1.0,
        ),
        # Raw strings: "The" is not "the". 2 common of 3 and 3.
        ("Narration: The car stops. Reasoning: because the light is red.", 2 / 3, 1.0),
    ],
    ids=["perfect", "cut at the first period", "case counts"],
)
def test_hintad_reads_up_to_the_first_period(
    prediction: str, narration: float, reasoning: float
) -> None:
    table = score_nux(nux("nux-hintad-raw"), [prediction], [TRUTH], options=NO_INTERVALS)
    assert table.value("narration", "ROUGE_L") == pytest.approx(narration)
    assert table.value("reasoning", "ROUGE_L") == pytest.approx(reasoning)


def test_hintad_drops_and_counts_what_it_cannot_read() -> None:
    predictions = [
        hintad_text(TRUTH),
        "Narration: the car stops\nReasoning: because the light is red",  # no period
        "the car stops",
        None,
    ]
    table = score_nux(nux("nux-hintad-raw"), predictions, [TRUTH] * 4, options=NO_INTERVALS)
    assert table.value("joined", "ROUGE_L") == 1.0
    assert table.counts == {"read": 4, "scored": 1, "missing": 1, "malformed": 2}
    assert "malformed:dropped" in table.signature


def test_hintad_cuts_the_reference_too() -> None:
    truth = NuxParts("the car drives at 1.5 m/s", "because the road is free")
    table = score_nux(nux("nux-hintad-raw"), [hintad_text(truth)], [truth], options=NO_INTERVALS)
    assert table.value("narration", "ROUGE_L") == 1.0
    other = "Narration: the car drives at 1. Reasoning: because the road is free."
    table = score_nux(nux("nux-hintad-raw"), [other], [truth], options=NO_INTERVALS)
    assert table.value("narration", "ROUGE_L") == 1.0


def test_hintad_without_any_readable_row_is_an_error() -> None:
    with pytest.raises(PredictionError, match="No prediction has the form"):
        score_nux(nux("nux-hintad-raw"), ["nothing"], [TRUTH])


def test_nux_ptb_scores_unreadable_rows_as_empty() -> None:
    predictions = [
        "Narration: the car stops\nReasoning: because the light is red.",
        "the car stops",
        None,
    ]
    table = score_nux(nux("nux-ptb", "lower"), predictions, [TRUTH] * 3, options=NO_INTERVALS)
    for group in ("narration", "reasoning", "joined"):
        assert table.value(group, "ROUGE_L") == pytest.approx(1 / 3)
    assert table.counts == {"read": 3, "scored": 3, "missing": 1, "malformed": 1}


@pytest.mark.java
def test_nux_ptb_ignores_case_and_final_periods() -> None:
    prediction = "Narration: The car stops. Reasoning: Because the light is red."
    others = ["Narration: a b. Reasoning: c d."] * 2
    truths = [TRUTH, NuxParts("a b", "c d"), NuxParts("e f", "g h")]
    table = score_nux(
        PROFILES.get("nux-ptb"),  # type: ignore[arg-type]
        [prediction, *others],
        truths,
        clusters=["s1", "s1", "s2"],
    )
    assert {row.group for row in table.rows} == {"narration", "reasoning", "joined"}
    # Two of three rows are perfect and one is wrong.
    assert table.value("joined", "ROUGE_L") == pytest.approx(2 / 3)
    row = next(r for r in table.rows if (r.group, r.metric) == ("joined", "ROUGE_L"))
    assert row.interval == (0.0, 1.0)
    assert "tok:ptb" in table.signature
    assert "join:space" in table.signature


def test_word_lower_keeps_only_words() -> None:
    table = score_captions(
        captions("nucaption-word-lower"),
        ["A car, (red) stops!", None],
        [["a car red stops"], ["x"]],
        options=NO_INTERVALS,
    )
    # 4 of 4 words right, but 5 in the references: exp(1 - 5/4).
    assert table.value("caption", "Bleu_1") == pytest.approx(0.7788007831, abs=1e-8)
    assert table.counts["missing"] == 1
    assert "tok:word-lower" in table.signature


def test_unequal_lengths() -> None:
    with pytest.raises(PredictionError, match="1 predictions for 2 references"):
        score_nux(nux("nux-ptb"), ["a"], [TRUTH, TRUTH])


def test_a_row_that_does_not_exist() -> None:
    table = score_captions(captions("nucaption-word-lower"), ["a"], [["a"]], options=NO_INTERVALS)
    with pytest.raises(KeyError):
        table.value("caption", "METEOR")
