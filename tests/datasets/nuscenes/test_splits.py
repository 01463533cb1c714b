import pytest

from odvla_bench.datasets.nuscenes.splits import scenes_of, split_of_scene
from odvla_bench.errors import UnknownNameError

SIZES = {"train": 700, "val": 150, "test": 150, "mini_train": 8, "mini_val": 2}


@pytest.mark.parametrize(("split", "size"), SIZES.items())
def test_sizes_and_order(split: str, size: int) -> None:
    names = scenes_of(split)
    assert len(set(names)) == len(names) == size
    assert list(names) == sorted(names)


def test_splits_do_not_overlap() -> None:
    assert not set(scenes_of("train")) & set(scenes_of("val"))
    assert not set(scenes_of("test")) & {*scenes_of("train"), *scenes_of("val")}
    assert set(scenes_of("mini_val")) <= set(scenes_of("val"))


def test_two_scenes_of_mini_train_are_in_val() -> None:
    strays = set(scenes_of("mini_train")) - set(scenes_of("train"))
    assert strays == {"scene-0553", "scene-0796"} <= set(scenes_of("val"))


@pytest.mark.parametrize(
    ("scene", "version", "split"),
    [
        ("scene-0103", "v1.0-trainval", "val"),
        ("scene-0103", "v1.0-mini", "mini_val"),
        ("scene-0061", "v1.0-trainval", "train"),
        ("scene-0061", "v1.0-mini", "mini_train"),
        ("scene-0077", "v1.0-test", "test"),
    ],
)
def test_split_of_scene(scene: str, version: str, split: str) -> None:
    assert split_of_scene(scene, version) == split


def test_unknown_names_are_told() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'val'"):
        scenes_of("vall")


@pytest.mark.parametrize(
    ("scene", "version", "split"),
    [
        pytest.param("scene-0103", "v1.0-test", "", id="a scene of another version"),
        pytest.param("scene-9999", "v1.0-trainval", "", id="a scene that is in none"),
        pytest.param("scene-0103", "v1.0-mine", "val", id="a version of one's own"),
    ],
)
def test_scenes_without_a_split_have_none(scene: str, version: str, split: str) -> None:
    assert split_of_scene(scene, version) == split


@pytest.mark.devkit
@pytest.mark.parametrize("split", SIZES)
def test_same_as_the_devkit(split: str) -> None:
    official = pytest.importorskip("nuscenes.utils.splits")
    assert list(scenes_of(split)) == getattr(official, split)
