"""The library is the same bytes everywhere, whole books are held out, and a batch depends on its step alone."""

import json
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nl_course.errors import CourseError
from nl_course.files import asset
from nl_course.tasks import documents, text
from nl_course.tasks.documents import Document, dedent, docstrings
from nl_course.tasks.text import Library


@pytest.fixture(scope="module")
def prose():
    return text.library("prose")


# -- the library --------------------------------------------------------------------------------------------
def test_the_default_library_is_the_recorded_one(prose):
    assert prose.verify() == [] and prose.verify(strict=True) == []
    assert prose.nbytes() > 6e6 and prose.nbytes("held_out") > 2e5


def test_books_stand_in_the_order_of_their_names_hashes_and_every_twentieth_is_held_out(prose):
    ranks = [documents.rank(book.name) for book in prose.train]
    assert ranks == sorted(ranks) and all(rank % 20 for rank in ranks)
    assert all(documents.rank(book.name) % 20 == 0 for book in prose.held_out)
    assert not {book.name for book in prose.train} & {book.name for book in prose.held_out}
    share = len(prose.held_out) / (len(prose.train) + len(prose.held_out))
    assert 0.03 < share < 0.08
    assert {book.name.split(".")[0] for book in prose.train[:20]} == {"sympy", "networkx"}  # well mixed


def test_lines_that_both_sides_share_are_measured_and_can_be_taken_out(prose):
    assert prose.shared_share() == pytest.approx(0.0918, abs=5e-4)
    apart = prose.without_shared_lines()
    assert apart.shared_share() == 0
    assert apart.held_out == prose.held_out and apart.name.endswith("without shared lines")
    assert 0.98 < apart.nbytes() / prose.nbytes() < 0.99  # 1.2 % of what there is to learn from
    # What is left of a document are its own lines, in their order.
    before = {document.name: document.text.split(b"\n") for document in prose.train}
    for document in apart.train[:100]:
        own = iter(before[document.name])
        assert all(line in own for line in document.text.split(b"\n"))


def test_a_line_is_shared_whatever_spaces_stand_around_it_and_short_ones_are_not():
    long_line = b"the same forty bytes stand in both documents"
    train = [Document("a", b"first\n  " + long_line + b"\nlast"), Document("b", long_line)]
    made = Library("own", train, [Document("c", long_line + b"  \nfirst")])
    assert made.shared_share() == pytest.approx((len(long_line) + 2) / (len(long_line) + 8))
    assert made.without_shared_lines().train == [Document("a", b"first\nlast")]
    assert made.without_shared_lines(least=5).train == [Document("a", b"last")]
    with pytest.raises(CourseError, match="least"):
        made.without_shared_lines(least=0)


def test_no_book_is_a_test_or_a_generated_file():
    names = [name for package in documents.PACKAGES for name in documents.modules(package)]
    assert "sympy.core.basic" in names and "networkx" in names
    for name in names:
        assert not {"tests", "benchmarks", "_antlr", "version", "assumptions_generated"} & set(name.split(".")), name
    assert "numpy" not in names and not any(name.startswith("numpy.distutils") for name in names)


def test_a_stream_is_the_books_each_followed_by_the_separator(prose):
    stream = prose.stream("held_out")
    assert stream.dtype == torch.uint8
    parts = bytes(stream.numpy()).split(b"\0")
    assert parts[-1] == b"" and parts[:-1] == [book.text for book in prose.held_out]


def test_reading_twice_gives_the_same_from_the_cache_and_from_the_files(tmp_path, monkeypatch):
    monkeypatch.setenv("NL_COURSE_CACHE", str(tmp_path))
    first = documents.documents("networkx", "prose")
    (cached,) = tmp_path.iterdir()
    monkeypatch.setattr(documents, "extract", lambda *_: pytest.fail("the cache was not used"))
    assert documents.documents("networkx", "prose") == first
    whole = cached.read_bytes()
    monkeypatch.setattr(documents, "extract", lambda *_: first)
    for damaged in (whole[:-3], whole[:10], b"", whole + b"x", whole[:-1] + b"\x01"):
        cached.write_bytes(damaged)  # a damaged cache is read anew, and mended
        assert documents.documents("networkx", "prose") == first
        assert cached.read_bytes() == whole


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("NL_COURSE_CACHE", str(blocked / "folder"))
    monkeypatch.setattr(documents, "extract", lambda *_: [Document("a", b"text")])
    assert documents.documents("networkx", "prose") == [Document("a", b"text")]


def test_another_text_is_said_with_both_versions(prose, monkeypatch):
    record = json.loads(asset("library.json").read_text())
    entry = record["packages"]["networkx"]
    entry["version"] = "3.1"
    entry["prose"] = {"hash": "0" * 12, "bytes": 1, "books": {"networkx": "0" * 12}}
    monkeypatch.setattr(text, "recorded", lambda: record)
    monkeypatch.setattr(documents, "extract", lambda package, _: [b for b in prose.train if package in b.name])
    with pytest.warns(text.LibraryWarning, match=r"networkx 3\.1, installed is networkx 3\.\d") as caught:
        found = text.library("prose")
    assert len(caught) == 1 and "pip install networkx==3.1" in found.verify()[0]
    with pytest.raises(CourseError, match=r"networkx 3\.1"):
        text.library("prose", strict=True)


@pytest.mark.slow
def test_reading_the_library_does_not_import_its_packages():
    code = (
        "import sys; from nl_course.tasks import text; text.library(); print({'sympy', 'networkx'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("poetry",), "choose one of: prose, code"),
        (("prosa",), "Did you mean 'prose'"),
        (("prose", ("simpy",)), "Did you mean 'sympy'"),
        (("prose", ()), "no package to read"),
    ],
)
def test_what_is_no_package_is_refused(arguments, words):
    with pytest.raises(CourseError, match=words):
        text.library(*arguments)


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(documents, "PACKAGES", ("no_such_package",))
    with pytest.raises(CourseError, match=r"pip install .*no_such_package`"):
        documents.documents("no_such_package")


# -- docstrings ---------------------------------------------------------------------------------------------
def test_docstrings_come_in_the_order_of_the_source_without_indentation():
    source = b'''"""Module.

    Kept deeper.
"""
class A:
    r"""Of A: \\d."""
    def f(self):
        """
        First.

            Second.\t
        """
        def inner():
            "Inner."
    async def g(self):
        x = "not one"
def h():
    "Of h."
'''
    assert docstrings(source) == ["Module.\n\nKept deeper.", "Of A: \\d.", "First.\n\n    Second.", "Inner.", "Of h."]


def test_an_invalid_escape_in_somebody_elses_file_makes_no_noise(recwarn):
    assert docstrings(b'"""A \\d digit."""') == ["A \\d digit."]
    assert not recwarn.list


@given(st.text(alphabet=st.sampled_from("ab \t\n"), max_size=40))
def test_dedent_twice_is_dedent_once_and_loses_no_word(docstring):
    once = dedent(docstring)
    assert once.split() == docstring.split()
    assert not once or (once[0] != "\n" and once[-1] != "\n")
    rest = [line for line in once.split("\n")[1:] if line]
    assert all(line == line.rstrip() for line in rest)


# -- the learner's own --------------------------------------------------------------------------------------
def test_a_file_and_a_folder_of_the_learners_own(tmp_path):
    (tmp_path / "b.txt").write_text("second " * 40)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.md").write_text("é" * 100)
    (tmp_path / ".hidden").write_text("not read")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "empty.txt").write_text("  \n")
    found = text.from_path(tmp_path)
    assert [book.name for book in found.train] == ["b.txt", "sub/a.md"]
    for book, rest in zip(found.train, found.held_out, strict=True):
        assert (book.text + rest.text) == (tmp_path / book.name).read_bytes()
        assert 0 < len(rest.text) <= len(book.text) // 19 + 1
        book.text.decode()
        rest.text.decode()  # cut between characters
    single = text.from_path(tmp_path / "b.txt")
    assert single.train[0].text == found.train[0].text


def test_a_path_without_text_is_refused_by_name(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "zeros.bin").write_bytes(b"ab\0cd")
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary").mkdir()
    (tmp_path / "binary" / "zeros.bin").write_bytes(b"ab\0cd")
    for name, words in (
        ("missing.txt", "there is no text at"),
        ("empty.txt", "is empty"),
        ("zeros.bin", "zero bytes"),
        ("folder", "no text file"),
        ("binary", "no text file that can be read: '.*zeros.bin' is not text"),
    ):
        with pytest.raises(CourseError, match=words) as raised:
            text.from_path(tmp_path / name)
        assert name in str(raised.value)


# -- tokens and batches -------------------------------------------------------------------------------------
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_decode_undoes_encode(words):
    tokens = text.encode(words)
    assert tokens.dtype == torch.int64 and tokens.tolist() == list(words.encode())
    assert text.decode(tokens) == words == text.decode(tokens.tolist())


def test_decode_shows_a_broken_character_and_the_separator_and_refuses_no_byte():
    assert text.decode([0xC3]) == "\ufffd"
    assert text.decode([97, text.SEPARATOR, 98]) == "a\n\nb"
    with pytest.raises(CourseError, match="not 3 to 256"):
        text.decode(torch.tensor([3, 256]))


def test_a_batch_depends_on_its_step_and_seed_alone():
    stream = torch.arange(1000).to(torch.int64)
    inputs, targets = text.batch(stream, step=7, batch_size=6, length=5, seed=3)
    assert inputs.shape == targets.shape == (6, 5) and inputs.dtype == torch.int64
    assert torch.equal(targets, inputs + 1)  # one ahead
    again, _ = text.batch(stream, step=7, batch_size=6, length=5, seed=3)
    assert torch.equal(again, inputs)
    for other in ({"step": 8, "seed": 3}, {"step": 7, "seed": 4}):
        assert not torch.equal(text.batch(stream, batch_size=6, length=5, **other)[0], inputs)
    second_half, _ = text.batch(stream, step=7, batch_size=3, length=5, seed=3, first_row=3)
    assert torch.equal(second_half, inputs[3:])  # two machines share a batch between them


def test_windows_reach_both_ends_and_a_short_text_is_refused():
    stream = torch.arange(9, dtype=torch.uint8)
    starts = {int(text.batch(stream, step, 1, 7, 0)[0][0, 0]) for step in range(40)}
    assert starts == {0, 1}  # a window is 8 long: two places in 9
    assert text.batch(stream, 0, 2, 8, 0)[1][:, -1].tolist() == [8, 8]
    with pytest.raises(CourseError, match="has 9 bytes and needs 10"):
        text.batch(stream, 0, 2, 9, 0)
    with pytest.raises(CourseError, match="batch_size must be a whole number of at least 1, not 0"):
        text.batch(stream, 0, 0, 4, 0)
