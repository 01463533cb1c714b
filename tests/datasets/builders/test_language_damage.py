"""Damaged language files: nothing raises but an `InputError`, and no record is lost silently."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from factories.builds import expand
from factories.small_tree import VERSION, write_small_tree
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from odvla_bench.datasets.builders.base import BUILDERS, BuildRequest, Context, Settings
from odvla_bench.errors import InputError, UnknownNameError

GOLDENS = Path(__file__).parents[2] / "goldens/instructions"
SOURCES = {
    "tod3cap": ("captions", "final_caption_bbox_token.json"),
    "nucaption": ("train", "nucaption/train.json"),
    "nuscenes_qa": ("val", "NuScenes_val_questions.json"),
    "nux": ("train", "Nu_X_train.json"),
}
SHARED_FOLDER = settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e12, 1e12) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_tree(tmp_path_factory.mktemp("tree"))


def raw_text(source: str) -> str:
    golden = json.loads((GOLDENS / f"{source}.json").read_text(encoding="utf-8"))
    return expand("\n".join(golden["files"][SOURCES[source][1]]))


def built(tree: Path, source: str, content: bytes, **choices: Any) -> tuple[Counter[str], int]:
    """Reasons of the drops, and rows kept; checks that they add up to what was read."""
    path = tree / f"{source}.json"
    path.write_bytes(content)
    request = BuildRequest(
        tree,
        VERSION,
        tree / "cache",
        files=((f"{source}.{SOURCES[source][0]}", path),),
        settings=Settings(**choices),
    )
    context, builder = Context(request), BUILDERS.get(source)
    reasons: Counter[str] = Counter()
    kept = 0
    for unit in builder.plan(context):
        rows = builder.build(context, unit)
        assert rows.unaccounted() == {}
        assert all(d.record in d.detail or d.reason == "no_view" for d in rows.dropped)
        reasons.update(d.reason for d in rows.dropped)
        kept += sum(table.num_rows for table in rows.tables.values())
    return reasons, kept


@pytest.mark.parametrize("source", SOURCES)
@SHARED_FOLDER
@given(at=st.floats(0, 1), bytes_in=st.binary(max_size=4), cut=st.integers(0, 6))
def test_any_damage_to_the_bytes(
    tree: Path, source: str, at: float, bytes_in: bytes, cut: int
) -> None:
    content = raw_text(source).encode()
    i = int(at * len(content))
    try:
        built(tree, source, content[:i] + bytes_in + content[i + cut :])
    except InputError as error:
        assert f"{source}.json" in str(error)  # noqa: PT017


@pytest.mark.parametrize("source", SOURCES)
@SHARED_FOLDER
@given(data=st.data())
def test_any_value_in_any_field(tree: Path, source: str, data: st.DataObject) -> None:
    records: Any = [
        {"sample_token": expand("@b1" if source == "nuscenes_qa" else "@a1"), "num_hop": 0}
    ]
    if source in ("tod3cap", "nux"):
        records = {expand("@box(1,a1)" if source == "tod3cap" else "@a1"): {}}
    record = records[0] if isinstance(records, list) else next(iter(records.values()))
    names = {
        *("sample_token", "question", "answer", "num_hop", "template_type", "split"),
        *("narration", "reasoning", "final_caption", "relation_caption", "cam_file"),
        *("attribute_caption", "map_caption", "localization_caption", "instance_token"),
    }
    for name in data.draw(st.lists(st.sampled_from(sorted(names)), unique=True)):
        record[name] = data.draw(
            ANYTHING | st.dictionaries(st.sampled_from(sorted(names)), ANYTHING)
        )
    whole = {"questions": records} if source == "nuscenes_qa" else records
    built(tree, source, json.dumps(whole).encode())


@pytest.mark.parametrize("source", SOURCES)
def test_a_truncated_file_says_where_it_ends(tree: Path, source: str) -> None:
    with pytest.raises(InputError, match=r"json: ends in the middle .* whole ones"):
        built(tree, source, raw_text(source).encode()[:-30])


@pytest.mark.parametrize("source", SOURCES)
def test_a_wrong_encoding_costs_its_records_only(tree: Path, source: str) -> None:
    text = raw_text(source)
    before, kept = built(tree, source, text.encode())
    # A letter of the one kept record's text becomes a Latin-1 byte.
    word = {"tod3cap": "SUV", "nucaption": "red", "nuscenes_qa": "rider", "nux": "gap"}[source]
    damaged = text.replace(word, "caf#", 1).encode().replace(b"caf#", b"caf\xe9")
    reasons, fewer = built(tree, source, damaged)
    assert reasons - before == Counter({"damaged": 1})
    assert fewer == kept - 1


FILTERS = {
    "all": {"filtered": 0},
    "lidar-points": {"filtered": 1},
    "visible": {"filtered": 1},
    "matched": {"filtered": 2},
}


@pytest.mark.parametrize("name", FILTERS)
def test_object_filters(tree: Path, tmp_path: Path, name: str) -> None:
    # The pedestrian in a1 has no LIDAR points and visibility 1; the list names only the car there.
    matched = tmp_path / "matched.txt"
    matched.write_text(expand("@box(1,a1)\n\n"))
    text = expand(
        '{"@box(1,a1)": {"attribute_caption": "car"}, "@box(2,a1)": {}, "@box(3,b1)": {}}'
    )
    reasons, kept = built(tree, "tod3cap", text.encode(), object_filter=name, matched_file=matched)
    assert (reasons["filtered"], kept) == (FILTERS[name]["filtered"], 3 - reasons["filtered"])


def test_filters_that_cannot_work(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'visible'"):
        Settings(object_filter="visibel")
    with pytest.raises(InputError, match="--matched-file"):
        built(tree, "tod3cap", raw_text("tod3cap").encode(), object_filter="matched")
    bad = tmp_path / "matched.txt"
    bad.write_text("d" * 32 + "\nsample 1\n")
    with pytest.raises(InputError, match=r"matched.txt:2: 'sample 1' is no nuScenes token"):
        built(
            tree,
            "tod3cap",
            raw_text("tod3cap").encode(),
            object_filter="matched",
            matched_file=bad,
        )


def test_whole_captions_drop_what_is_no_text(tree: Path) -> None:
    text = expand(
        '{"@box(1,a1)": {"attribute_caption": "car", "depth_caption": 7},'
        ' "@box(2,a1)": {"attribute_caption": "man", "depth_caption": "about 4 meters away"}}'
    )
    reasons, kept = built(tree, "tod3cap", text.encode(), object_caption="full")
    assert (reasons, kept) == (Counter({"malformed": 1}), 1)


@pytest.mark.parametrize(("hop", "kept"), [("0", 1), ("1.0", 1), ("true", 0), ("2", 0), ('"1"', 0)])
def test_hops_are_numbers(tree: Path, hop: str, kept: int) -> None:
    text = expand(
        '{"questions": [{"sample_token": "@b1", "question": "Is there a car?", "answer": "yes",'
        f' "split": "val", "template_type": "exist", "num_hop": {hop}}}]}}'
    )
    reasons, found = built(tree, "nuscenes_qa", text.encode())
    assert (found, reasons["malformed"]) == (kept, 1 - kept)
