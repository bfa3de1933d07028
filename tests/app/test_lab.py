"""A learner's copy follows the course and never loses an edit; JupyterLab starts quiet."""

import json
import os
import re
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

from nl_course.app import lab
from nl_course.errors import CourseError
from nl_course.files import write_atomically
from nl_course.manifest import digest


def notebook(*sources, outputs=(), tags=()):
    """A notebook of these code cells, as nbformat writes it. Only the last cell has the tags. The cells' ids, which
    nbformat draws, are their numbers here."""
    cells = []
    for number, source in enumerate(sources):
        cells.append(nbformat.v4.new_code_cell(source, id=f"cell-{number}", outputs=list(outputs)))
    cells[-1].metadata.tags = list(tags)
    made = nbformat.v4.new_notebook(cells=cells)
    nbformat.validate(made)
    return nbformat.writes(made)


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course of three notebooks and a picture."""
    root = tmp_path / "course"
    (root / "notebooks").mkdir(parents=True)
    (root / "assets" / "previews").mkdir(parents=True)
    (root / "assets" / "previews" / "view.png").write_bytes(b"picture")
    (root / "assets" / "diagrams").mkdir()
    (root / "assets" / "diagrams" / "loops.svg").write_bytes(b"drawing")
    for name in ("00_start_here", "01_attention", "02_scaling"):
        (root / "notebooks" / f"{name}.ipynb").write_text(notebook(f"print('{name}')", "answer = 1", tags=["solution"]))
    (root / "notebooks" / "glossary.md").write_text("# Glossary\n")
    monkeypatch.setattr(lab, "course_root", lambda: root)
    return root


@pytest.fixture
def copy(course, tmp_path):
    folder = tmp_path / "mine"
    assert lab.copy_course(folder).added == ["00_start_here.ipynb", "01_attention.ipynb", "02_scaling.ipynb"]
    return folder


def edit(folder, name, text):
    (folder / "notebooks" / name).write_text(notebook(text))


def test_a_copy_has_the_notebooks_and_the_pictures_they_show(course, copy):
    assert (copy / "notebooks" / "../assets/previews/view.png").read_bytes() == b"picture"
    assert (copy / "notebooks" / "../assets/diagrams/loops.svg").read_bytes() == b"drawing"
    for source in (course / "notebooks").iterdir():
        assert (copy / "notebooks" / source.name).read_text() == source.read_text()
    assert str(lab.copy_course(copy)) == "The copy is up to date."


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A learner's home folder, by the names that it has on any system."""
    folder = tmp_path / "home"
    folder.mkdir()
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(folder))
    return folder


def test_a_checkout_holds_the_learners_copy_and_an_installed_course_never_does(course, home):
    assert lab.own_copy() == home / "nested-learning"
    (course / "pyproject.toml").write_text("")
    assert lab.own_copy() == course / "my_course"
    assert not (course / "my_course").exists(), "it is made when it is opened"


def test_a_checkout_that_cannot_be_written_is_shared_so_the_copy_is_kept_at_home(course, home, monkeypatch):
    (course / "pyproject.toml").write_text("")
    (course / "my_course").mkdir()  # the owner's: the checkout itself may well be open to all

    def check(folder):
        if folder == course / "my_course":
            raise PermissionError(13, "Permission denied")
        return folder

    monkeypatch.setattr(lab, "check_writable", check)
    assert lab.own_copy() == home / "nested-learning"


def test_a_user_without_a_home_names_the_copys_folder(course, monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(CourseError, match=r"no home folder .* add --copy DIR"):
        lab.own_copy()


def test_git_ignores_the_copy_in_a_checkout():
    root = Path(__file__).parents[2]
    asked = ["git", "check-ignore", "--no-index", f"{lab.COPY_IN_CHECKOUT}/notebooks/{lab.START}"]
    assert subprocess.run(asked, cwd=root, capture_output=True).returncode == 0


def test_an_update_replaces_what_was_only_run_and_keeps_what_was_edited(course, copy):
    output = nbformat.v4.new_output("stream", text="x")
    ran = notebook("print('00_start_here')", "answer = 1", outputs=[output], tags=["solution"])
    (copy / "notebooks" / "00_start_here.ipynb").write_text(ran)
    edit(copy, "01_attention.ipynb", "my own words")
    assert lab.copy_course(copy).kept == ["01_attention.ipynb"]
    for name in ("00_start_here.ipynb", "01_attention.ipynb"):
        edit(course, name, "a new version")
    (course / "notebooks" / "03_new.ipynb").write_text(notebook("three"))
    copied = lab.copy_course(copy)
    assert copied.updated == ["00_start_here.ipynb"] and copied.added == ["03_new.ipynb"]
    assert copied.kept == copied.behind == ["01_attention.ipynb"]
    assert "my own words" in (copy / "notebooks" / "01_attention.ipynb").read_text()
    assert "a new version" in (copy / "notebooks" / "00_start_here.ipynb").read_text()
    text = str(copied)
    assert "Kept with your changes: 01_attention.ipynb." in text and "`--reset NOTEBOOK`" in text


def test_reset_takes_the_courses_and_keeps_the_learners_under_a_dated_name(course, copy):
    edit(copy, "01_attention.ipynb", "mine")
    edit(copy, "02_scaling.ipynb", "also mine")
    first = lab.copy_course(copy, reset="1")
    assert re.fullmatch(r"01_attention_\d{4}-\d\d-\d\d\.ipynb", first.saved_as) and first.kept == ["02_scaling.ipynb"]
    assert '"mine"' in (copy / "notebooks" / first.saved_as).read_text()
    edit(copy, "01_attention.ipynb", "mine again")
    second = lab.copy_course(copy, reset="01_attention.ipynb")
    assert second.saved_as == first.saved_as.replace(".ipynb", "_2.ipynb")
    assert '"mine"' in (copy / "notebooks" / first.saved_as).read_text()
    fresh = lab.copy_course(copy, reset="notebooks/01_attention")
    assert fresh.saved_as == ""  # nothing of the learner's to keep
    own = (course / "notebooks" / "01_attention.ipynb").read_text()
    assert (copy / "notebooks" / "01_attention.ipynb").read_text() == own


def test_without_its_memory_a_copy_keeps_everything_that_differs(course, copy):
    (copy / lab.COPY).write_text("{damaged")
    edit(course, "00_start_here.ipynb", "new")
    (copy / "notebooks" / "01_attention.ipynb").write_text("not even a notebook")
    assert lab.copy_course(copy).kept == ["00_start_here.ipynb", "01_attention.ipynb"]


@pytest.fixture
def old_copy(course, copy, monkeypatch):
    """A copy as versions made it that remembered notebooks only, by their names."""
    manifest = json.loads((copy / lab.COPY).read_text())
    old = {path.removeprefix("notebooks/"): value for path, value in manifest.items() if path.endswith(".ipynb")}
    (copy / lab.COPY).write_text(json.dumps(old))
    known = {digest((copy / "notebooks" / "glossary.md").read_bytes())}
    monkeypatch.setattr(lab, "_handed_out", lambda: known)
    return copy


@pytest.mark.parametrize("made", ["copy", "old_copy"])
def test_pages_and_pictures_follow_the_course_until_they_are_changed(course, made, request):
    folder = request.getfixturevalue(made)
    (course / "notebooks" / "evidence.md").write_text("# Evidence\n")
    lab.copy_course(folder)
    (course / "notebooks" / "glossary.md").write_text("# Glossary, longer\n")
    (folder / "notebooks" / "evidence.md").write_text("my evidence\n")
    (folder / "assets" / "previews" / "view.png").write_bytes(b"my picture")
    copied = lab.copy_course(folder)
    assert copied.updated == ["glossary.md"] and copied.behind == []
    assert copied.kept == ["evidence.md", "assets/previews/view.png"]
    assert (folder / "notebooks" / "glossary.md").read_text() == "# Glossary, longer\n"
    assert (folder / "notebooks" / "evidence.md").read_text() == "my evidence\n"
    assert (folder / "assets" / "previews" / "view.png").read_bytes() == b"my picture"
    (course / "notebooks" / "evidence.md").write_text("# Evidence, longer\n")
    assert lab.copy_course(folder).behind == ["evidence.md"]
    taken = lab.copy_course(folder, reset="evidence.md")
    assert (folder / "notebooks" / taken.saved_as).read_text() == "my evidence\n" and taken.saved_as.endswith(".md")
    assert (folder / "notebooks" / "evidence.md").read_text() == "# Evidence, longer\n"


def test_an_old_copy_keeps_what_the_course_does_not_know(course, old_copy, monkeypatch):
    monkeypatch.setattr(lab, "_handed_out", frozenset)
    (course / "notebooks" / "glossary.md").write_text("# Glossary, longer\n")
    edit(course, "00_start_here.ipynb", "a new version")
    copied = lab.copy_course(old_copy)
    assert copied.kept == copied.behind == ["glossary.md"] and copied.updated == ["00_start_here.ipynb"]


def test_the_course_knows_the_pages_and_pictures_of_its_present_version():
    """Copies that were made before copies remembered them hold these or earlier ones."""
    assert len(lab._handed_out()) > 80 and all(re.fullmatch("[0-9a-f]{12}", known) for known in lab._handed_out())


def test_no_link_is_written_through(course, copy, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for inside in ("notebooks/01_attention.ipynb", "notebooks/glossary.md", "assets/previews/view.png"):
        (theirs / Path(inside).name).write_text("theirs")
        (copy / inside).unlink()
        (copy / inside).symlink_to(theirs / Path(inside).name)
    edit(course, "01_attention.ipynb", "a new version")
    (copy / "notebooks" / "02_scaling.ipynb").unlink()
    (copy / "notebooks" / "02_scaling.ipynb").mkdir()
    copied = lab.copy_course(copy)
    names = ["01_attention.ipynb", "02_scaling.ipynb", "assets/previews/view.png", "glossary.md"]
    assert sorted(copied.left_alone) == names and "Left alone, because it is a link" in str(copied)
    assert {path.read_text() for path in theirs.iterdir()} == {"theirs"}
    assert (copy / "notebooks" / "01_attention.ipynb").is_symlink()
    with pytest.raises(CourseError, match=r"01_attention\.ipynb is a link or no plain file, and is left alone"):
        lab.copy_course(copy, reset="01")


@pytest.mark.parametrize("part", ["notebooks", "assets", "assets/previews", "assets/diagrams", lab.COPY])
def test_a_copy_whose_own_folder_or_list_is_a_link_is_refused(copy, tmp_path, part):
    (copy / part).rename(tmp_path / "moved")
    (copy / part).symlink_to(tmp_path / "moved")
    with pytest.raises(CourseError, match="link"):
        lab.copy_course(copy)
    assert (copy / part).is_symlink()


def test_a_copy_that_was_broken_off_is_gone_on_with(course, copy, monkeypatch):
    """Whether the process ended before or after the file was written, what the course wrote counts as the course's."""
    for breaks in (lambda path, writer: killed(), lambda path, writer: (write_atomically(path, writer), killed())):
        edit(course, "00_start_here.ipynb", f"a new version, {breaks}")
        with monkeypatch.context() as patch:
            patch.setattr("nl_course.manifest.write_atomically", breaking_at("00_start_here.ipynb", breaks))
            with pytest.raises(KeyboardInterrupt):
                lab.copy_course(copy)
        edit(course, "00_start_here.ipynb", f"a newer version, {breaks}")
        assert lab.copy_course(copy).updated == ["00_start_here.ipynb"]


def breaking_at(name, breaks):
    return lambda path, writer: breaks(path, writer) if path.name == name else write_atomically(path, writer)


def killed():
    raise KeyboardInterrupt


def test_a_copy_that_cannot_be_made_is_refused_in_words(course, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CourseError, match="course's own folder"):
        lab.copy_course(course)
    with pytest.raises(CourseError, match="course's own folder"):
        lab.copy_course(course / "notebooks" / "x")
    with pytest.raises(CourseError, match=r"as the copy's folder: .*/file is a file, not a folder"):
        lab.copy_course(tmp_path / "file" / "inside")
    with pytest.raises(CourseError, match=r"Did you mean '01_attention\.ipynb'"):
        lab.copy_course(tmp_path / "new", reset="01_atention")
    assert not (tmp_path / "new").exists()
    for path in (course / "notebooks").iterdir():
        path.unlink()
    with pytest.raises(CourseError, match="notebooks are missing"):
        lab.copy_course(tmp_path / "new")
    with pytest.raises(CourseError, match="first notebook is missing"):
        lab.command_line()


@pytest.mark.slow
def test_jupyterlab_comes_up_on_the_first_notebook_without_news(copy, tmp_path, monkeypatch):
    for name in ("CONFIG", "DATA", "RUNTIME"):
        monkeypatch.setenv(f"JUPYTER_{name}_DIR", str(tmp_path / "jupyter" / name.lower()))
    monkeypatch.setenv("JUPYTERLAB_SETTINGS_DIR", str(tmp_path / "jupyter" / "settings"))
    monkeypatch.setenv("NL_COURSE_CACHE", str(tmp_path / "cache"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command, environment = lab.command_line(copy, browser=False, port=port)
    log = open(tmp_path / "log", "w+")  # noqa: SIM115 (read when the server is done)
    server = subprocess.Popen([*command, "--IdentityProvider.token=t"], env=environment, stderr=log)
    try:
        address, until = f"http://127.0.0.1:{port}", time.monotonic() + 90
        while True:
            try:
                page = ask(f"{address}/lab/tree/notebooks/00_start_here.ipynb?token=t")
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < until, (tmp_path / "log").read_text()
                time.sleep(0.2)
        config = json.loads(re.search(r'id="jupyter-config-data"[^>]*>(.*?)</script>', page, re.S)[1])
        assert config["news"] == {"disabled": True}
        name = "@jupyterlab/apputils-extension:notification"
        settings = json.loads(ask(f"{address}/lab/api/settings/{name}?token=t"))
        properties = settings["schema"]["properties"]
        assert properties["fetchNews"]["default"] == "false" and properties["checkForUpdates"]["default"] is False
        viewers = json.loads(ask(f"{address}/lab/api/settings/@jupyterlab/docmanager-extension:plugin?token=t"))[
            "schema"
        ]
        assert viewers["properties"]["defaultViewers"]["default"] == {"markdown": "Markdown Preview"}
        assert json.loads(ask(f"{address}/api/contents/notebooks?token=t"))["type"] == "directory"
    finally:
        server.terminate()
        server.wait(30)
        log.close()
    log_text = (tmp_path / "log").read_text()  # the address to open, by a browser or by hand
    assert f"127.0.0.1:{port}/lab/tree/notebooks/00_start_here.ipynb?token=" in log_text


def ask(address):
    with urllib.request.urlopen(address, timeout=20) as answer:
        return answer.read().decode()


def test_the_command_adds_to_the_learners_settings_and_replaces_none(copy, monkeypatch):
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "theirs")
    command, environment = lab.command_line(copy, browser=True)
    assert environment["JUPYTER_CONFIG_PATH"].split(os.pathsep)[1:] == ["theirs"]
    assert "--no-browser" not in command and not any(part.startswith("--port") for part in command)
