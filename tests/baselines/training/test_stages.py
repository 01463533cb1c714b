from __future__ import annotations

import json
import math

import pytest
import torch

from odvla_bench.baselines.opendrivevla.configuration import preset_config
from odvla_bench.baselines.opendrivevla.modeling import OpenDriveVLAForConditionalGeneration
from odvla_bench.baselines.opendrivevla.perception.config import perception_config, to_settings
from odvla_bench.baselines.training.stages import STAGES, freeze, get_stage, learning_parts
from odvla_bench.datasets.schema import STAGE_TABLES
from odvla_bench.errors import UnknownNameError


def test_the_stages_are_those_of_table_1():
    rows = [(s.name, s.table, s.trains, s.learning_rate, s.epochs) for s in STAGES.values()]
    assert rows == [
        ("1", "alignment", ("projectors",), 1e-4, 1),
        ("2", "instruct", ("projectors", "language"), 1e-5, 1),
        ("2.5", "forecasting", ("projectors", "language"), 1e-5, 1),
        ("3", "planning", ("projectors", "language", "perception"), 1e-5, 1),
    ]
    assert {name: table.name for name, table in STAGE_TABLES.items()} == {
        s.name: s.table for s in STAGES.values()
    }


@pytest.mark.parametrize(
    ("preset", "stage", "millions"),
    [
        ("0.5B", "1", 3.1),
        ("0.5B", "2", 496.9),
        ("0.5B", "2.5", 496.9),
        ("3B", "1", 14.2),
        ("3B", "2", 3099.6),
        ("7B", "1", 41.3),
        ("7B", "2.5", 7654.2),
    ],
)
def test_as_many_parameters_learn_as_in_the_paper(preset, stage, millions):
    with torch.device("meta"):
        model = OpenDriveVLAForConditionalGeneration(preset_config(preset))
    trainable, _ = freeze(model, get_stage(stage))
    assert round(trainable / 1e6, 1) == millions


@pytest.mark.golden
def test_stage_3_trains_all_but_the_2d_backbone(golden):
    seeing = preset_config("0.5B", perception=to_settings(perception_config("uniad-base")))
    with torch.device("meta"):
        model = OpenDriveVLAForConditionalGeneration(seeing)
    trainable, _ = freeze(model, get_stage("3"))
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen
    assert all(n.startswith("model.perception.img_backbone.") for n in frozen)
    assert learning_parts(model) == ["projectors", "language", "perception"]
    # The paper's 552.6 M count parameters of the official files that nothing ever uses.
    assert round(trainable / 1e6, 1) == 541.8
    official = json.loads((golden / "perception" / "state_dict_full.json").read_text())["uniad"]
    ours = {n.removeprefix("model.perception.") for n, _ in model.named_parameters()}
    unused = sum(
        math.prod(v["shape"])
        for name, v in official.items()
        if v["kind"] == "param" and name not in ours
    )
    assert round((trainable + unused) / 1e6, 1) == 552.6


def test_an_unknown_stage_names_the_known_ones():
    with pytest.raises(UnknownNameError, match=r"1, 2, 2\.5, 3"):
        get_stage("4")
