"""Packed token ids: every id is a target once, in any order of steps; what is none is named with its place."""

import numpy as np
import pytest
import torch

from nl_course.errors import CourseError
from nl_course.tasks.token_files import TokenFiles, is_packed
from nl_course.tasks.tokenizer import TokenIds

SIZES = dict(batch_size=3, length=10)
IDS = np.random.default_rng(0).integers(0, 70_000, size=403)


def header(mark, version, count):
    """The 256 numbers of 32 bits with which llm.c's files begin."""
    numbers = np.zeros(256, dtype="<i4")
    numbers[:3] = mark, version, count
    return numbers.tobytes()


def files_of(ids, kind, tmp_path):
    """The same ids in two files of one kind: as nanoGPT's `tofile`, as llm.c and as `numpy.save` write them."""
    for name, part in (("a", ids[:150]), ("b", ids[150:])):
        if kind.endswith(".npy"):
            np.save(tmp_path / f"{name}.npy", part.astype(kind.removesuffix(".npy")))
        elif kind == "llm.c uint16":
            (tmp_path / f"{name}.bin").write_bytes(header(20240520, 1, len(part)) + part.astype("<u2").tobytes())
        elif kind == "llm.c uint32":
            (tmp_path / f"{name}.bin").write_bytes(header(20240801, 7, len(part)) + part.astype("<u4").tobytes())
        else:
            part.astype(kind).tofile(tmp_path / f"{name}.bin")
    return str(tmp_path)


@pytest.mark.parametrize("hold_out", [True, False])
@pytest.mark.parametrize("kind", ["uint16", "uint32", "llm.c uint16", "llm.c uint32", "uint16.npy", "int64.npy"])
def test_every_id_is_a_target_once_in_any_order_of_steps_and_then_it_begins_again(tmp_path, kind, hold_out):
    ids = IDS % 60_000 if "16" in kind else IDS
    source = files_of(ids, kind, tmp_path)
    data = TokenFiles(source, TokenIds(60_000 if "16" in kind else 70_000), hold_out=hold_out, **SIZES)
    assert is_packed(source)
    cuts = (150 - 7, 403 - 12) if hold_out else (150, 403)
    learned = np.concatenate([ids[: cuts[0]], ids[150 : cuts[1]]])
    held = np.concatenate([ids[cuts[0] : 150], ids[cuts[1] :]])
    assert data.held_out().tolist() == held.tolist() and data.held_out(9).tolist() == held[:9].tolist()
    rounds = np.tile(learned, 3)
    for step in (0, 25, 3, 12, 13, 14):
        inputs, targets = data(step)
        assert inputs.shape == targets.shape == (3, 10) and inputs.dtype == torch.int64
        assert inputs.flatten().tolist() == rounds[30 * step : 30 * step + 30].tolist()
        assert targets.flatten().tolist() == rounds[30 * step + 1 : 30 * step + 31].tolist()


def test_an_id_beyond_the_vocabulary_is_named_with_its_file_and_position(tmp_path, monkeypatch):
    source = files_of(IDS % 500, "uint16", tmp_path)
    ids = np.fromfile(tmp_path / "b.bin", dtype="<u2")
    ids[123] = 500
    ids.tofile(tmp_path / "b.bin")
    says = r"the file .*b\.bin has the token id 500 at position 123; the vocabulary has the ids 0 to 499"
    with pytest.raises(CourseError, match=says):
        TokenFiles(source, TokenIds(500), **SIZES)
    # Of a large corpus the ids are looked at when they are read.
    monkeypatch.setattr("nl_course.tasks.token_files.HASHED_WHOLE", 100)
    data = TokenFiles(source, TokenIds(500), **SIZES)
    data(3)
    with pytest.raises(CourseError, match=says):
        data(8)
    assert TokenFiles(source, TokenIds(501), **SIZES)(8)[0].max() == 500


def test_the_hash_knows_a_changed_file(tmp_path):
    source = files_of(IDS % 500, "uint16", tmp_path)
    first = TokenFiles(source, TokenIds(500), **SIZES).data_hash
    files_of((IDS + 1) % 500, "uint16", tmp_path)
    assert TokenFiles(source, TokenIds(500), **SIZES).data_hash != first


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.bin", b"abc", r"a\.bin has 3 bytes, which is no whole number of uint16 ids"),
        (
            "a.bin",
            header(20240520, 1, 9) + bytes(16),
            "its header says that 9 ids of type uint16 follow, and it has 16",
        ),
        ("a.npy", b"abc", r"a\.npy cannot be read as token ids: "),
        ("a.npy", np.zeros((3, 3), np.uint16), r"holds uint16 numbers in the shape \(3, 3\); token ids are one row"),
        ("a.npy", np.zeros(9), "holds float64 numbers"),
        ("a.npy", np.array([{}, 1], dtype=object), "cannot be read as token ids: "),
        ("a.npy", np.array([-1] * 40), "has the token id -1 at position 0"),
        ("a.npy", np.array([1]), "has 1 token ids to learn from; a prediction needs two"),
    ],
)
def test_what_holds_no_ids_is_refused(tmp_path, name, content, says):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        np.save(tmp_path / name, content, allow_pickle=True)
    with pytest.raises(CourseError, match=says):
        TokenFiles(str(tmp_path / name), TokenIds(500), **SIZES)


def test_the_width_is_that_of_the_vocabulary_unless_it_is_named(tmp_path):
    source = files_of(IDS % 500, "uint32", tmp_path)
    assert (
        TokenFiles(source, TokenIds(500), width="uint32", **SIZES)(0)[0].flatten().tolist() == (IDS % 500)[:30].tolist()
    )
    assert TokenFiles(source, TokenIds(70_000), **SIZES)(0)[0].flatten().tolist() == (IDS % 500)[:30].tolist()
    with pytest.raises(CourseError, match="width 'int8' is not known; choose one of: uint16, uint32"):
        TokenFiles(source, TokenIds(500), width="int8", **SIZES)
