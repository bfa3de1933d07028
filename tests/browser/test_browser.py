"""What only a browser shows: a notebook runs, views answer the keyboard, nothing leaves the machine."""

import base64
import io

import pytest
from nbformat.v4 import new_code_cell, new_output
from PIL import Image

from nl_course.notebooks import all_notebooks
from tests.browser.conftest import save

pytestmark = pytest.mark.browser
NOTEBOOKS = [path.name for path in all_notebooks()]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_view_of_a_notebook_answers_the_keyboard(lab, name):
    with lab.notebook(f"notebooks/{name}") as page:
        assert all(page.stored_pictures())
        page.run_all()
        assert page.stored_pictures() == [], "a widget stands beside its still picture"
        assert page.errors() == [] and page.broken_pictures() == []
        for view in page.views():
            said = page.readout(view)
            page.press(view)
            assert said and page.errors() == []
    assert lab.strangers() == []


def test_a_still_picture_shows_until_its_widget_does(lab, folder):
    file = io.BytesIO()
    Image.new("RGB", (30, 20)).save(file, "PNG")
    png = base64.b64encode(file.getvalue()).decode()
    data, metadata = {"text/plain": "Chart: .", "image/png": png}, {"nl_course": "view", "picture": "a"}
    seen = new_output("display_data", data=data, metadata=metadata)
    save(folder / "stored.ipynb", new_code_cell("from toy_view import Wave\n\nWave()", outputs=[seen]))
    with lab.notebook("stored.ipynb") as page:
        assert page.stored_pictures() == [30]
        page.run_all()
        assert page.stored_pictures() == [] and page.views() == ["wave"]


def test_the_shell_in_the_browser(lab):
    with lab.notebook("toy.ipynb") as page:
        page.run_all()
        assert page.errors() == [] and page.views() == ["wave"]
        assert page.readout("wave") == "The wave has 2 crests."
        page.press("wave")
        page.page.wait_for_selector("text=The wave has 3 crests.")
        page.press("wave")
        page.page.wait_for_selector(".infolayer >> text=fast")
        view = page.view("wave")
        view.get_by_placeholder("a number").fill("4")
        page.page.keyboard.press("Enter")
        page.page.wait_for_selector("text=You predicted 4; it came out 4, close to it.")
        view.get_by_role("button", name="More controls").press("Enter")
        for kind in ("bars", "map", "line"):
            before = page.picture("wave")
            view.locator("select").select_option(kind)
            page.changed("wave", before)
            page.press("wave")
        before = page.picture("wave")
        view.get_by_role("button", name="Back", exact=True).press("Enter")
        page.changed("wave", before)
        assert page.errors() == []
    assert lab.strangers() == []


KEYS = """
from toy_view import Wave

class Choosing(Wave):
    name = "choosing"
    prediction = Prediction("How many at 4?", lambda a: None, options=("one", "two", "three"))
    def controls(self):
        return {"kind": W.Dropdown(options=["line", "bars", "map"], description="Drawn as"), **super().controls()}
    def more_controls(self):
        return {}

Choosing()
"""


def test_arrows_stay_in_a_view_and_step_it(lab, folder):
    """ArrowDown in a list or radio group moves it, not JupyterLab's cells; arrows on the picture step the view."""
    imports = "import ipywidgets as W\nfrom nl_course.views.kit.shell import Prediction"
    save(folder / "keys.ipynb", new_code_cell(imports + KEYS), new_code_cell("1 + 1"))
    with lab.notebook("keys.ipynb") as page:
        page.run_all()
        view, keyboard = page.view("choosing"), page.page.keyboard
        choice, radios = view.locator("select"), view.locator("input[type=radio]")
        choice.focus()
        for key, kind in (("ArrowDown", "bars"), ("ArrowDown", "map"), ("ArrowUp", "bars")):
            before = page.picture("choosing")
            keyboard.press(key)
            page.changed("choosing", before)
            assert choice.input_value() == kind and choice.evaluate("list => list === document.activeElement")
        radios.first.focus()
        for key, place in (("ArrowDown", 1), ("ArrowDown", 2), ("ArrowUp", 1)):
            keyboard.press(key)
            assert radios.nth(place).evaluate("radio => radio.checked && radio === document.activeElement")
        page.page.wait_for_selector("text=You predicted")
        view.locator(".nl-plot").focus()
        assert not radios.first.is_visible()  # answered and left: the answers fold
        for key, crests in (("ArrowRight", 3), ("ArrowRight", 4), ("ArrowLeft", 3), (" ", 9)):  # it plays to the end
            keyboard.press(key)
            page.page.wait_for_selector(f"text=The wave has {crests} crests.")
        assert view.locator(".nl-plot").evaluate("plot => plot === document.activeElement")


def test_the_checks_can_fail(lab):
    with lab.notebook("failing.ipynb") as page:
        page.run_all()
        assert page.errors() == ["ZeroDivisionError: division by zero"]
    with lab.notebook("toy.ipynb") as page:
        page.run_all()
        page.page.keyboard.press("Escape")
        with pytest.raises(Exception, match="Timeout"):
            page.press("wave", key="F9", seconds=1)
    before = len(lab.asked)
    with lab.notebook("remote.ipynb") as page:
        page.page.wait_for_timeout(500)
        assert page.broken_pictures() == ["http://example.invalid/far.png"]
    assert lab.strangers() == ["http://example.invalid/far.png"]
    del lab.asked[before:]
