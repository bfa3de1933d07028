"""A file of tensors comes back bit for bit; whatever is wrong with it is said in one line that names it."""

import json
import os
import warnings
from contextlib import suppress

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nl_course import tensor_files
from nl_course.errors import CourseError
from nl_course.files import JSON_DEPTH, course_root, parse_json, read_json
from nl_course.tensor_files import open_tensors, write_tensors

KEY = "nl_course.state"
TENSORS = {
    "half": torch.arange(6, dtype=torch.bfloat16).view(2, 3) / 3,
    "whole": torch.tensor([[1, -2], [3, 4]]),
    "flags": torch.tensor([True, False]),
    "number": torch.tensor(2.5, dtype=torch.float64),
    "none": torch.empty(0, 4),
    "view": torch.arange(12.0).view(3, 4).T[1:],
}
DESCRIPTION = {"position": 7, "name": "é", "rate": 0.1}


@pytest.fixture
def path(tmp_path):
    write_tensors(tmp_path / "file", TENSORS, KEY, DESCRIPTION, "saved state")
    return tmp_path / "file"


def read(path, key=KEY):
    """The description and every tensor, each compared with its checksum."""
    with open_tensors(path, key, "saved state") as file:
        return file.description, {name: file.tensor(name) for name in sorted(file.names)}


def refusal(path, key=KEY) -> str:
    with pytest.raises(CourseError) as refused:
        read(path, key)
    message = str(refused.value)
    assert "\n" not in message and str(path) in message
    return message


def rewritten(path, change=lambda metadata: None, **tensors):
    """The file with other tensors or another metadata, written by safetensors itself."""
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    change(metadata)
    save_file(load_file(path) | tensors, path, metadata)


def same(one, other):
    return one.dtype == other.dtype and one.shape == other.shape and bool(torch.equal(one, other))


def test_tensors_and_description_come_back_bit_for_bit(path):
    description, tensors = read(path)
    assert description == DESCRIPTION and tensors.keys() == TENSORS.keys()
    assert all(same(tensors[name], TENSORS[name]) for name in TENSORS)
    before = path.read_bytes()
    write_tensors(path, dict(reversed(TENSORS.items())), KEY, DESCRIPTION, "saved state")
    assert path.read_bytes() == before
    with open_tensors(path, KEY, "saved state") as file:
        assert file.shape("view") == (3, 3) and file.shape("number") == ()


def test_a_flipped_bit_in_any_byte_is_noticed(path):
    """In the header and in the bytes of the tensors."""
    write_tensors(path, {"half": TENSORS["half"]}, KEY, {"position": 7, "rate": 0.1}, "saved state")
    data = path.read_bytes()
    unnoticed = []
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << (position % 8)
        path.write_bytes(flipped)
        with suppress(CourseError):
            read(path)
            unnoticed.append(position)
    assert unnoticed == []


def test_what_is_no_file_is_told_apart(tmp_path, path, monkeypatch):
    assert refusal(tmp_path / "none").startswith("there is no saved state at")
    assert "there is no" in refusal(path / "below-a-file")
    assert refusal(tmp_path).endswith("is a folder, not a saved state.")
    os.mkfifo(tmp_path / "pipe")
    assert "not an ordinary file" in refusal(tmp_path / "pipe")
    assert "null" in refusal("a\0b")
    save_file({"x": torch.ones(1)}, tmp_path / "foreign")
    assert "holds tensors, but it is not a saved state of the course" in refusal(tmp_path / "foreign")
    assert "not a saved state" in refusal(path, "nl_course.checkpoint")

    def locked(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", locked)
    assert refusal(path) == f"cannot read the saved state {path}: Permission denied."


@pytest.mark.parametrize("length", [0, 5, 8, 100, -1, -50])
def test_a_truncated_file_is_named(path, length):
    path.write_bytes(path.read_bytes()[:length])
    assert "is damaged or incomplete" in refusal(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace('"position": 7', '"position": 8'), "checksum of its description"),
        (lambda text: "{not json", "not JSON"),
        (lambda text: "[" * 100_000 + "]" * 100_000, "nested more than 100 levels deep"),
        (lambda text: "[" * 101 + "]" * 101, "nested more than 100 levels deep"),
        (lambda text: "9" * 5000, "not JSON"),
        (lambda text: '{"sha256": null, "description": {}}', "list of checksums"),
        (lambda text: '{"sha256": {"tensors": {}}, "description": {}}', "list of checksums"),
        (lambda text: text.replace('"half"', '"hulf"'), "list of checksums"),
    ],
)
def test_a_damaged_description_is_named(path, change, words):
    rewritten(path, lambda metadata: metadata.update({KEY: change(metadata[KEY])}))
    assert words in refusal(path)


def test_another_tensor_is_noticed_be_it_by_value_shape_or_dtype(path):
    before = path.read_bytes()
    for other in (
        {"whole": TENSORS["whole"].T.contiguous()},
        {"whole": TENSORS["whole"].view(4)},
        {"whole": TENSORS["whole"].view(torch.float64)},
    ):
        path.write_bytes(before)
        rewritten(path, **other)
        assert "the checksum of 'whole' does not match" in refusal(path)
    with open_tensors(path, KEY, "saved state") as file:  # a reader of other tensors is not concerned
        assert same(file.tensor("half"), TENSORS["half"])
        with pytest.raises(CourseError, match="lacks the tensor 'other'"):
            file.tensor("other")


def test_a_file_from_before_the_checksums_is_read_with_one_warning(path, monkeypatch):
    rewritten(path, lambda metadata: metadata.update({KEY: json.dumps(DESCRIPTION)}))
    with pytest.warns(UserWarning, match="kept no checksums") as warned:
        assert read(path)[0] == DESCRIPTION
    assert len(warned) == 1 and str(path) in str(warned[0].message)
    monkeypatch.setattr(tensor_files, "course_root", lambda: path.parent.parent)
    (path.parent.parent / "assets").mkdir(exist_ok=True)
    shipped = path.rename(path.parent.parent / "assets" / "file")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what the course ships is checked by git or the installer
        assert read(shipped)[0] == DESCRIPTION


def test_what_the_course_ships_is_read_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in sorted((course_root() / "assets" / "checkpoints").glob("*.safetensors"))[:2]:
            with open_tensors(path, "nl_course.checkpoint", "checkpoint") as file:
                assert file.description["kind"] == "model"


def test_a_write_that_fails_leaves_the_old_file(path, monkeypatch):
    before = path.read_bytes()
    with pytest.raises(CourseError, match="its description is not JSON") as refused:
        write_tensors(path, TENSORS, KEY, {"odd": object()}, "saved state")
    assert "\n" not in str(refused.value)

    def full(tensors, temporary, metadata):
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_files, "save_file", full)
    with pytest.raises(CourseError, match=rf"cannot write the saved state {path}: No space left on device\."):
        write_tensors(path, TENSORS, KEY, DESCRIPTION, "saved state")
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ["file"]


def test_json_is_read_or_refused_in_one_line(tmp_path):
    deepest = "[" * JSON_DEPTH + "]" * JSON_DEPTH
    assert parse_json(deepest) == json.loads(deepest)
    for text in ("[" + deepest + "]", "[" * 100_000, '{"a":' * 100_000, "{", "", "9" * 5000):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(CourseError, match=r"the run's settings .*run\.json is damaged") as refused:
            read_json(tmp_path / "run.json", "run's settings")
        assert "\n" not in str(refused.value)
    (tmp_path / "run.json").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(CourseError, match="is damaged"):
        read_json(tmp_path / "run.json", "run's settings")
    with pytest.raises(CourseError, match="is a folder"):
        read_json(tmp_path, "run's settings")
