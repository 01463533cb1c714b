from __future__ import annotations

import os
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from odvla_bench.datasets.safe_pickle import load_plain_pickle
from odvla_bench.errors import InputError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Any]:
    def load_bytes(data: bytes, **bounds: int) -> Any:
        path = tmp_path / "file.pkl"
        path.write_bytes(data)
        return load_plain_pickle(path, **bounds)

    return load_bytes


def assert_same(found: Any, wanted: Any) -> None:
    """Equality that looks into arrays and at types."""
    assert type(found) is (dict if type(wanted) is OrderedDict else type(wanted))
    if isinstance(wanted, np.ndarray | np.generic):
        assert found.dtype == wanted.dtype
        assert found.shape == wanted.shape
        np.testing.assert_array_equal(found, wanted)
    elif isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for key in wanted:
            assert_same(found[key], wanted[key])
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted)
        for a, b in zip(found, wanted, strict=True):
            assert_same(a, b)
    else:
        assert found == wanted


LEGACY = {
    "trajectory": np.arange(12, dtype=np.float64).reshape(6, 2) / 7,
    "batch": np.ones((1, 6, 2), np.float32),
    "mask": np.array([[True, False]]),
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "strided": np.arange(10)[::3],
    "big endian": np.arange(3, dtype=">i2"),
    "names": np.array(["car", "lorry"]),
    "bytes": np.array([b"a", b"bc"]),
    "none": np.empty((0, 2)),
    "point": np.array(3.5),
    "scalars": [np.float64(0.25), np.int32(-4), np.bool_(True), np.str_("ab")],
    "dtype": np.dtype("<f4"),
    "plain": (None, True, -(2**70), 1.5, 2 + 3j, "é", b"\xff", b"", {1, 2}, frozenset({3}), ()),
    "ordered": OrderedDict(z=[1], a=[2]),
    ("tuple", 1): {np.int64(7): "x"},
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_data_comes_back(protocol: int, load: Callable[..., Any]) -> None:
    assert_same(load(pickle.dumps(LEGACY, protocol)), LEGACY)


plain_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
    | hnp.arrays(
        st.sampled_from(["f8", ">f4", "i2", "u1", "b1", "c8", "<U3", "S2"]),
        hnp.array_shapes(min_dims=0, max_side=3),
    ).filter(lambda a: a.dtype.kind not in "fc" or np.isfinite(a).all()),
    lambda inner: st.lists(inner, max_size=4)
    | st.tuples(inner, inner)
    | st.dictionaries(st.text() | st.integers(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=plain_data, protocol=st.sampled_from(PROTOCOLS))
def test_any_plain_data_comes_back(value: Any, protocol: int, load: Callable[..., Any]) -> None:
    assert_same(load(pickle.dumps(value, protocol)), value)


def test_shared_containers_stay_shared(load: Callable[..., Any]) -> None:
    row = [np.ones(2)]
    found = load(pickle.dumps({"a": row, "b": row}))
    assert found["a"] is found["b"]


def test_arrays_are_writable(load: Callable[..., Any]) -> None:
    found = load(pickle.dumps(np.zeros(3)))
    found[0] = 1
    assert found.tolist() == [1, 0, 0]


def test_numpy_2_and_python_2_spellings(load: Callable[..., Any]) -> None:
    written = pickle.dumps(np.arange(3.0), 2)
    assert b"cnumpy.core.multiarray\n" in written
    renamed = written.replace(b"cnumpy.core.multiarray\n", b"cnumpy._core.multiarray\n")
    np.testing.assert_array_equal(load(renamed), [0, 1, 2])
    # Python 2 wrote an array's bytes as a byte string.
    python_2 = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02u2K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x04\x01\x00\xff\x00tb."
    )
    np.testing.assert_array_equal(load(python_2), np.array([1, 255], np.uint16))


class Call:
    """Pickles as a call of `function`, as any class with a `__reduce__` may."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.reduced = function, args

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.reduced


def called(name: str, *args: str) -> bytes:
    """A pickle that calls the global `name` (module, new line, attribute) on strings."""
    words = b"".join(b"\x8c" + bytes([len(a)]) + a.encode() for a in args)
    return b"\x80\x04c" + name.encode() + b"\n(" + words + b"tR."


def touch(marker: Path) -> str:
    return f"open({str(marker)!r}, 'w').close()"


def object_array_on_disk(marker: Path) -> str:
    path = marker.with_suffix(".npy")
    np.save(path, np.array([Call(eval, touch(marker))]), allow_pickle=True)
    return str(path)


ATTACKS: dict[str, Callable[[Path], bytes]] = {
    "posix.system": lambda m: pickle.dumps(Call(os.system, f"touch {m}")),
    "os.system": lambda m: called("os\nsystem", f"touch {m}"),
    "builtins.eval": lambda m: pickle.dumps({"a": [np.ones(2), Call(eval, touch(m))]}),
    "builtins.exec": lambda m: pickle.dumps(Call(exec, touch(m))),
    "__builtin__.eval": lambda m: pickle.dumps(Call(eval, touch(m)), 0),
    "builtins.getattr": lambda m: called("builtins\ngetattr", "", "format"),
    "subprocess.check_output": lambda m: called("subprocess\ncheck_output", f"touch {m}"),
    "numpy.load": lambda m: called("numpy\nload", object_array_on_disk(m)),
    "numpy.testing._private.utils.runstring": lambda m: called(
        "numpy.testing._private.utils\nrunstring", touch(m)
    ),
    "numpy.core.multiarray.os.system": lambda m: called(
        "numpy.core.multiarray\nos.system", f"touch {m}"
    ),
    "numpy.core.multiarray._reconstruct.__self__": lambda m: called(
        "numpy.core.multiarray\n_reconstruct.__self__"
    ),
    "numpy.ndarray.tofile": lambda m: called("numpy\nndarray.tofile", str(m)),
    "numpy.ma.core._mareconstruct": lambda m: pickle.dumps(np.ma.array([1, 2])),
    "codecs.encode": lambda m: called("codecs\nencode", "a", "rot13"),
    "collections.defaultdict": lambda m: called("collections\ndefaultdict"),
    "copy_reg._reconstructor": lambda m: pickle.dumps(Call.__new__(Plain), 0),
    "torch._utils._rebuild_tensor_v2": lambda m: called("torch._utils\n_rebuild_tensor_v2"),
}


class Plain(Call):
    def __init__(self) -> None:
        pass

    __reduce__ = object.__reduce__


@pytest.mark.parametrize("name", ATTACKS)
def test_code_is_refused_by_name_and_does_not_run(
    name: str, tmp_path: Path, load: Callable[..., Any]
) -> None:
    marker = tmp_path / "marker"
    with pytest.raises(InputError) as caught:
        load(ATTACKS[name](marker))
    message = str(caught.value)
    assert f"{tmp_path / 'file.pkl'}: refused the global {name}. " in message
    assert ("tensor.cpu().numpy()" if "torch" in name else "save the arrays as") in message
    assert not marker.exists()


@pytest.mark.parametrize("name", ["posix.system", "os.system", "builtins.eval"])
def test_the_attacks_work_on_an_unguarded_unpickler(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    pickle.loads(ATTACKS[name](marker))  # noqa: S301  (shows that the payloads above are live)
    assert marker.exists()


def array_of(spec: bytes, state: bytes) -> bytes:
    """A pickle of an array of dtype `spec` whose state tuple is made by the opcodes `state`."""
    return (
        b"\x80\x03cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
        b"(K\x01" + state.replace(b"DTYPE", b"cnumpy\ndtype\nX" + struct.pack("<I", len(spec))
        + spec + b"K\x00K\x01\x87R") + b"b."
    )  # fmt: skip


GLOBAL = b"cnumpy\ndtype\n"
REFUSED = {
    "object array": (pickle.dumps(np.array([{}, None], dtype=object)), "array type 'O8'"),
    "structured array": (pickle.dumps(np.zeros(2, "f4,i4")), "array type 'V8'"),
    "datetime array": (pickle.dumps(np.zeros(2, "M8[s]")), "array type 'M8'"),
    "fields put into a dtype": (
        b"\x80\x03cnumpy\ndtype\nX\x02\x00\x00\x00f8K\x00K\x01\x87R(K\x03X\x01\x00\x00\x00<N"
        b"X\x01\x00\x00\x00a\x85}K\x08K\x01K\x00tb.",
        "structured array type",
    ),
    "array without data": (array_of(b"f8", b"(")[: -len(b"(K\x01(b.")] + b".", "without its data"),
    "array of a str": (array_of(b"f8", b"K\x01\x85NNNt"), "not made of a type and bytes"),
    "called ndarray": (b"cnumpy\nndarray\n)R.", "call of numpy.ndarray"),
    "bare global": (b"\x80\x04" + GLOBAL + b".", "no data: Global"),
    "global as a key": (b"\x80\x04}" + GLOBAL + b"K\x01s.", "no data: Global"),
    "state of a global": (GLOBAL + b"}b.", "change to a global"),
    "slots of a global": (GLOBAL + b"N}\x8c\x05_callK\x01s\x86b.", "change to a global"),
    "class instance": (b"\x80\x04" + GLOBAL + b")\x81.", "a class instance"),
    "old class instance": (b"(iposix\nsystem\n.", "a class instance"),
    "extension code": (b"\x80\x04\x82\x01.", "an extension code"),
    "persistent id": (b"\x80\x04K\x01Q.", "tensor.cpu().numpy()"),
    "buffer outside": (b"\x80\x05\x97.", "buffer outside"),
    "codec": (b"c_codecs\nencode\n(Va\nVrot13\ntR.", "_codecs.encode"),
    "memo jump": (b"\x80\x03K\x01r\xff\xff\xff\x7f.", "memo index"),
    "negative memo": (b"I1\np-1\n.", "memo index"),
    "nested tuples": (b"\x80\x04})" + b"\x85" * 600_000 + b"K\x01s.", "tuples nested"),
    "tuples nested by memo": (
        b"\x80\x04})" + b"".join(b"\x85q%c0h%c" % (i, i) for i in range(70)) + b"K\x01s.",
        "tuples nested",
    ),
    "nested lists": (b"\x80\x04" + b"]" * 65 + b"a" * 64 + b".", "nested more than 64"),
    "list in itself": (b"\x80\x04]\x94h\x00a.", "holds itself"),
    "tuple in itself": (b"\x80\x04]\x94h\x00\x85\x94h\x00h\x01a0.", "holds itself"),
    "copies of a list": (
        b"\x80\x04](" + b"K\x01" * 1_000 + b"e\x94c__builtin__\nset\n\x940("
        + b"h\x01h\x00\x85R" * 100 + b"l.",
        "more data than the file",
    ),
    "too many opcodes": (pickle.dumps(list(range(3_000))), "more than 3,000 opcodes"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_plain_data_is_refused(name: str, load: Callable[..., Any]) -> None:
    data, message = REFUSED[name]
    with pytest.raises(InputError) as caught:
        load(data, max_opcodes=3_000)
    assert message in str(caught.value)
    assert "refused" in str(caught.value)


def test_a_refused_file_leaves_the_reader_as_it_was(load: Callable[..., Any]) -> None:
    for data, _ in REFUSED.values():
        with pytest.raises(InputError, match="refused"):
            load(data, max_opcodes=2_999)
    assert_same(load(pickle.dumps(LEGACY)), LEGACY)


WHOLE = pickle.dumps(LEGACY)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_truncated_anywhere(protocol: int, load: Callable[..., Any]) -> None:
    whole = pickle.dumps({"token": np.arange(12.0).reshape(6, 2)}, protocol)
    for length in range(len(whole)):
        with pytest.raises(InputError, match="truncated, damaged"):
            load(whole[:length])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_gives_data_or_an_input_error(data: st.DataObject, load: Callable[..., Any]) -> None:
    damaged = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(WHOLE) - 1))] = data.draw(st.integers(0, 255))
    try:
        load(bytes(damaged))
    except InputError:
        return


@pytest.mark.parametrize(
    ("spec", "shape", "size"),
    [
        pytest.param("f8", b"K\x02\x85", 8, id="too few bytes"),
        pytest.param(
            "f8", b"J" + b"\xff" * 4 + b"J" + b"\xff" * 4 + b"\x86", 8, id="negative axes"
        ),
        pytest.param("f3", b"K\x01\x85", 3, id="no such type"),
    ],
)
def test_arrays_that_do_not_add_up(
    spec: str, shape: bytes, size: int, load: Callable[..., Any]
) -> None:
    with pytest.raises(InputError, match="do not fill|array type"):
        load(array_of(spec.encode(), shape + b"DTYPE\x89C" + bytes([size]) + bytes(size) + b"t"))


def test_a_larger_file_is_refused(load: Callable[..., Any]) -> None:
    data = pickle.dumps([1, 2, 3])
    assert load(data, max_bytes=len(data)) == [1, 2, 3]
    with pytest.raises(InputError, match="larger than .* raise max_bytes"):
        load(data, max_bytes=len(data) - 1)


def test_files_that_are_no_pickles(tmp_path: Path, load: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_plain_pickle(tmp_path / "absent.pkl")
    with pytest.raises(InputError, match=r"zip archive.*tensor\.cpu"):
        load(b"PK\x03\x04rest")
    with pytest.raises(InputError, match="not a readable pickle"):
        load(b'{"token": [[0, 1]]}')


@pytest.mark.real
def test_published_predictions_are_read(real_data: Path) -> None:
    found = load_plain_pickle(real_data / "agent-driver/pred_trajs_dict.pkl")
    assert len(found) == 6019
    assert {(v.shape, v.dtype) for v in found.values()} == {((6, 2), np.dtype("f8"))}
    first = found["d5324133e1d241658a7b763831b3af2e"]
    np.testing.assert_allclose(first[0], [-0.262045, 0.702721], atol=1e-6)
