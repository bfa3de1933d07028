"""Why a file or a folder cannot be used is said in words, and the words are the cause."""

import errno
import os
import shutil

import pytest

from nl_course.errors import CourseError
from nl_course.files import check_folder, reason


def test_a_folder_that_is_there_or_can_be_made_is_returned(tmp_path):
    assert check_folder(tmp_path, "place") == tmp_path
    assert check_folder(tmp_path / "new" / "deep", "place") == tmp_path / "new" / "deep"
    assert not list(tmp_path.iterdir()), "nothing is made"


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    (tmp_path / "astray").symlink_to(tmp_path / "gone")
    for path, says in (
        (file, f"cannot use {file} as the run's folder: {file} is a file, not a folder."),
        (file / "in" / "side", f"{file} is a file, not a folder."),
        (tmp_path / "astray", "is a link that leads nowhere."),
        (tmp_path / "astray" / "inside", "is a link that leads nowhere."),
        (tmp_path / ("x" * 300), f"{os.strerror(errno.ENAMETOOLONG)}."),
    ):
        with pytest.raises(CourseError) as refused:
            check_folder(path, "the run's folder")
        assert str(refused.value).endswith(says)


FULL = "[Errno 28] No space left on device"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(13, "Permission denied", "x"), "Permission denied"),
        (OSError("plain words"), "plain words"),
        (OSError(), "OSError"),
        (StopIteration(), "StopIteration"),
        (shutil.Error([("/from/a", "/to/b", f"{FULL}: '/to/b'")]), f"/from/a: {FULL}: '/to/b'"),
        (shutil.Error([("/from/a", "/to/b", f"{FULL}: '/from/a'")]), f"{FULL}: '/from/a'"),
        (shutil.Error("a and b are the same file"), "a and b are the same file"),
        (ValueError("two\n lines"), "two lines"),
    ],
)
def test_a_reason_is_never_empty(error, words):
    assert reason(error) == words
