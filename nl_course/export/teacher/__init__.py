"""The teacher's book: `nl-course teacher DIR`. It holds every answer, so it is never shown to learners.

    from nl_course.export.teacher import write_book
    write_book("teachers_book")

A page per notebook says the sentence to earn, the minutes of each section, what to show live and what to ask before it,
the exercises with their aims and what each wrong answer reveals, the answers to the discussion questions, and a rubric.
`index.html` lists the notebooks and three routes through them: 90 minutes, one day, six weeks.

Nothing is written twice. Sentences come from `assets/sentences.json`, minutes and questions from the notebooks,
exercises and answers from `nl_course/exercises`, views from `nl_course/views`; only the routes are data of this package
(`routes.json`). A student build has no aims and no answers, so it cannot make the book; and the book has a folder of
its own, so that whoever publishes the site does not publish it.
"""

import os
from importlib import resources
from pathlib import Path

from nl_course.errors import CourseError
from nl_course.files import check_folder, course_root, reason
from nl_course.notebooks import all_notebooks

_WRITTEN = ".nl_course_teacher.json"  # in a book: the manifest of what was written there


def write_book(folder: str | os.PathLike, site: str | None = None) -> list[Path]:
    """Writes the book into `folder`, which is new, empty, or holds an earlier book, and returns its pages.

    `site` is where the pages of `nl-course export` stand, as an address or as a path from `folder`; each section of the
    book then links to its page. Raises CourseError for a folder inside the course's own, for one that holds files of
    somebody else, and in a student build, which has no answers.
    """
    from nl_course.export import opened
    from nl_course.export.teacher.book import chapter, check_answers_are_here
    from nl_course.export.teacher.pages import chapter_page, front_page
    from nl_course.export.teacher.routes import read_routes

    root = course_root().resolve()
    folder = check_folder(Path(folder).expanduser(), "the teacher's book's folder").resolve()
    if folder == root or any(folder.is_relative_to(root / part) for part in ("notebooks", "assets", "nl_course")):
        raise CourseError(f"the teacher's book cannot stand in the course's own folder {folder}; choose another one.")
    check_answers_are_here()
    names = ["index.html", *(f"{path.stem}.html" for path in all_notebooks(root)), "files/course.css"]
    manifest = opened(folder, names, _WRITTEN, "edition of the book")
    chapters = {path.stem: chapter(path) for path in all_notebooks(root)}
    contents = {"index.html": front_page(chapters, read_routes(chapters))}
    for stem in chapters:
        contents[f"{stem}.html"] = chapter_page(stem, chapters, site)
    style = resources.files("nl_course.export") / "files" / "course.css"
    pages = []
    try:
        manifest.write("files/course.css", style.read_bytes())
        for name, text in contents.items():
            pages.append(manifest.write(name, text.encode()))
        manifest.save()
    except OSError as error:
        raise CourseError(f"cannot write the teacher's book into {folder}: {reason(error)}.") from error
    return pages
