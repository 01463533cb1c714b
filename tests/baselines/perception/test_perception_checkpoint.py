from __future__ import annotations

import fnmatch
import json
import pickle
from pathlib import Path

import pytest
import torch
from perception_scenes import small_network
from safetensors.torch import save_file
from torch import Tensor

from odvla_bench.baselines.opendrivevla.perception.checkpoint import (
    HF_PREFIX,
    UNUSED,
    load_checkpoint,
    save_checkpoint,
)
from odvla_bench.baselines.opendrivevla.perception.config import perception_config
from odvla_bench.baselines.opendrivevla.perception.network import Perception
from odvla_bench.errors import InputError

SMALL = perception_config("uniad-small", behaviour="fixed")


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return small_network().state_dict()


@pytest.mark.golden
def test_every_official_name_and_shape_is_accounted_for(golden: Path) -> None:
    official = json.loads((golden / "perception/state_dict_full.json").read_text())["uniad"]
    with torch.device("meta"):
        ours = Perception(perception_config("uniad-base")).state_dict()
    unused = [k for k in official if any(fnmatch.fnmatchcase(k, p) for p in UNUSED)]
    assert len(official) == 1742
    assert set(ours) | set(unused) == set(official)
    assert not set(ours) & set(unused)
    wrong = [k for k, v in ours.items() if list(v.shape) != official[k]["shape"]]
    assert wrong == []
    kinds = {"int64": torch.int64, "float32": torch.float32}
    assert all(v.dtype == kinds[official[k]["dtype"]] for k, v in ours.items())


def test_mmdet_file(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "uniad.pth"
    extra = {
        "seg_head.bev_embedding.weight": torch.zeros(2500, 256),
        "motion_head.thing": torch.zeros(1),
    }
    torch.save({"meta": {"epoch": 6}, "state_dict": state | extra, "optimizer": {}}, path)
    network, report = load_checkpoint(path, SMALL)
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
    assert not network.training
    assert (len(report.loaded), report.missing) == (len(state), ())
    assert report.unused == ("seg_head.bev_embedding.weight",)
    assert report.unexpected == ("motion_head.thing",)
    assert f"{len(state)} loaded, 0 missing, 1 unexpected, 1 unused, 0 other" in str(report)


def test_folder_of_the_released_layout(tmp_path: Path, state: dict[str, Tensor]) -> None:
    names = list(state)
    shards = {
        "model-1.safetensors": {f"{HF_PREFIX}{k}": state[k].contiguous() for k in names[::2]},
        "model-2.safetensors": {f"{HF_PREFIX}{k}": state[k].contiguous() for k in names[1::2]}
        | {"model.norm.weight": torch.ones(3)},
    }
    for name, tensors in shards.items():
        save_file(tensors, tmp_path / name)
    index = {key: name for name, tensors in shards.items() for key in tensors}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    network, report = load_checkpoint(tmp_path, SMALL)
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
    assert report.other == ("model.norm.weight",)


def test_ours_round_trips(tmp_path: Path) -> None:
    network = small_network(seed=3)
    save_checkpoint(network, tmp_path / "ours.safetensors")
    again, report = load_checkpoint(tmp_path / "ours.safetensors", SMALL)
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in again.state_dict().items())
    assert report.unexpected == report.missing == ()
    assert len(report.fingerprint) == 32


def test_half_precision_weights_become_float32(tmp_path: Path, state: dict[str, Tensor]) -> None:
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    torch.save(half, tmp_path / "half.pth")
    network, _ = load_checkpoint(tmp_path / "half.pth", SMALL)
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_map_levels_come_from_the_weights(tmp_path: Path) -> None:
    from dataclasses import replace

    network = Perception(replace(SMALL, map_attention_levels=1))
    save_checkpoint(network, tmp_path / "one.safetensors")
    again, report = load_checkpoint(tmp_path / "one.safetensors", SMALL)
    assert again.config.map_attention_levels == report.config.map_attention_levels == 1


def test_wrong_shape_names_the_key(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state | {"reference_points.bias": torch.zeros(2)}, tmp_path / "bad.pth")
    with pytest.raises(InputError, match=r"reference_points\.bias is \(2,\), not \(3,\)"):
        load_checkpoint(tmp_path / "bad.pth", SMALL)


def test_missing_weights_are_an_error_unless_allowed(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    part = {k: v for k, v in state.items() if not k.startswith("memory_bank")}
    torch.save(part, tmp_path / "part.pth")
    with pytest.raises(InputError, match="lacks 14 of .* memory_bank"):
        load_checkpoint(tmp_path / "part.pth", SMALL)
    network, report = load_checkpoint(tmp_path / "part.pth", SMALL, allow_missing=True)
    assert len(report.missing) == 14
    assert all(torch.equal(network.state_dict()[k], v) for k, v in part.items())


class _Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("trap-was-run"),))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param(
            "trap.pth", pickle.dumps(_Trap(), protocol=2), "Nothing in it was run", id="pickle"
        ),
        pytest.param("junk.pth", b"no weights", "cannot be read as plain weights", id="junk"),
        pytest.param("word.pth", b"junk\n", "cannot be read as plain weights", id="opcodes"),
        pytest.param("cut.pth", b"PK\x03\x04" + bytes(60), "cannot be read as plain", id="zip"),
        pytest.param("empty.pth", b"", "cannot be read as plain weights", id="empty"),
        pytest.param("junk.safetensors", b"no weights", "no safetensors file", id="safetensors"),
    ],
)
def test_files_that_are_no_weights(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: bytes,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_checkpoint(tmp_path / name, SMALL)
    assert not (tmp_path / "trap-was-run").exists()


def test_absent_and_senseless_paths(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No checkpoint at"):
        load_checkpoint(tmp_path / "absent.pth", SMALL)
    with pytest.raises(InputError, match="No checkpoint at"):
        load_checkpoint(tmp_path, SMALL)
    torch.save({"state_dict": {"a": 1}}, tmp_path / "numbers.pth")
    with pytest.raises(InputError, match="holds no state dict"):
        load_checkpoint(tmp_path / "numbers.pth", SMALL)
