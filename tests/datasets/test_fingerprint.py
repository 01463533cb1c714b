import pyarrow as pa

from odvla_bench.datasets.fingerprint import ContentDigest, digest_table

TABLE = pa.table(
    {
        "token": pa.array(["a", "bé", None, ""], pa.string()),
        "x_m": pa.array([[1.0, 2.0], [], [3.0], None], pa.list_(pa.float32())),
        "ok": pa.array([True, False, None, True]),
    }
)


def test_storage_does_not_change_the_fingerprint() -> None:
    same = pa.table(
        {
            "token": TABLE["token"].dictionary_encode(),
            "x_m": TABLE["x_m"].cast(pa.large_list(pa.float32())),
            "ok": TABLE["ok"],
        }
    )
    assert digest_table(same) == digest_table(TABLE)


def test_batch_borders_do_not_change_the_fingerprint() -> None:
    digest = ContentDigest(TABLE.schema)
    for row in range(TABLE.num_rows):
        digest.update(TABLE.slice(row, 1))
    assert digest.hexdigest() == digest_table(TABLE)


def test_values_borders_between_values_names_and_types_change_it() -> None:
    changed = [
        TABLE.slice(1),
        TABLE.rename_columns(["token", "y_m", "ok"]),
        TABLE.set_column(0, "token", pa.array(["ab", "é", None, ""])),
        TABLE.set_column(0, "token", pa.array(["a", "bé", "", ""])),
        TABLE.set_column(1, "x_m", pa.array([[1.0], [2.0], [3.0], None], pa.list_(pa.float32()))),
        TABLE.set_column(1, "x_m", TABLE["x_m"].cast(pa.list_(pa.float64()))),
    ]
    assert len({digest_table(t) for t in [TABLE, *changed]}) == len(changed) + 1
