"""What recordings learn from shares no long line with what they are measured on, and they say so."""

import json
from importlib import import_module

import pytest

from nl_course.errors import CourseError
from nl_course.files import asset
from nl_course.record.provenance import Recording, read_config
from nl_course.record.texts import recording_domain, recording_libraries, recording_library, split_of, split_said
from nl_course.tasks.continual import domain
from nl_course.tasks.documents import Document
from nl_course.tasks.text import Library, library
from nl_course.training import TrainingConfig

OWN = {"split": "no shared lines"}
QUOTE_A_LOSS = ["reading", "inner-loop", "attention", "optimizers", "long-text", "hope", "sceptic"]
QUOTE_A_LOSS += ["continual", "corpora"]


def lines(tensor):
    """The long lines of a stream."""
    pieces = bytes(tensor.tolist()).replace(b"\0", b"\n").split(b"\n")
    return {line.strip() for line in pieces if len(line.strip()) >= 40}


def test_a_config_that_says_so_learns_from_no_line_that_is_held_out():
    usual, apart = library("prose"), recording_library(OWN)
    assert usual.shared_share() > 0.05 and apart.shared_share() == 0
    assert 0.9 < apart.nbytes() / usual.nbytes() < 1
    assert apart.held_out == usual.held_out
    assert recording_library({}).train == usual.train


def test_two_corpora_of_one_model_share_no_line_across():
    prose, code = recording_libraries(OWN, ["prose", "code"])
    known = lines(prose.stream("train")) | lines(code.stream("train"))
    for text in (prose, code):
        assert not known & lines(text.stream("held_out"))
    only_itself = library("code").without_shared_lines()
    assert lines(only_itself.stream("train")) & lines(prose.stream("held_out"))  # what would be left otherwise


def test_domains_of_one_recording_share_no_line_across():
    config = read_config("continual")
    names = [*config["general"], config["old"], config["new"]]
    texts = [recording_domain(config, name, names) for name in names]
    held_out = set().union(*(lines(text.held_out) for text in texts))
    for name, text in zip(names, texts, strict=True):
        assert not held_out & lines(text.train)
        assert text.held_out.equal(domain(name).held_out)
        assert recording_domain({}, name, names) is domain(name)


@pytest.mark.parametrize("name", QUOTE_A_LOSS)
def test_a_recording_of_a_loss_says_which_split_it_had(name):
    config = read_config(name)
    assert split_said(config) == "no shared lines"
    assert Recording(name, config).about()["split"] == "no shared lines"
    assert "split" not in Recording(name, {"tasks": {"parity": {}}}).about()
    earlier = json.loads(asset("runs/hope.json").read_text(encoding="utf-8"))["about"]["config"]["tasks"]["text"]
    assert split_of({key: value for key, value in earlier.items() if key != "split"}) == "shared lines"


@pytest.mark.parametrize("name", ["hope", "sceptic"])
def test_rows_of_a_text_task_come_from_its_split(name):
    data_of_recipe = import_module(f"nl_course.record.{name}").data_of
    about = read_config(name)["tasks"]["text"]
    assert about["split"] == "no shared lines"
    training = TrainingConfig(steps=1, batch_size=2, length=64, warmup=0)
    apart, _ = data_of_recipe(about, training)(0)
    usual, _ = data_of_recipe({**about, "split": "shared lines"}, training)(0)
    assert apart.shape == usual.shape == (2, 64) and not apart.equal(usual)


def test_a_split_that_is_none_is_refused():
    with pytest.raises(CourseError, match="choose one of: shared lines, no shared lines"):
        recording_library({"split": "no lines"})


def test_lines_of_other_libraries_go_too():
    line = "x" * 40
    one = Library("one", [Document("a", f"{line}\nshort\n".encode())], [Document("b", b"nothing")])
    other = Library("other", [], [Document("c", f"  {line} ".encode())])
    assert one.without_shared_lines().train == one.train
    assert one.without_shared_lines(others=[other]).train == [Document("a", b"short\n")]
