"""The figure's own script, without JupyterLab: one copy of plotly, differences, what it asks for, sizes, colors."""

import base64

import plotly.graph_objects as go
import pytest

from nl_course.views.kit import theme
from nl_course.views.kit.plot import Plot, library

pytestmark = pytest.mark.browser
# A model as anywidget gives it, with the kernel's side in `asked`; every widget imports its module anew.
HOST = """
async ([esm, packed, states]) => {
  const source = Uint8Array.from(atob(packed), letter => letter.charCodeAt(0));
  const widget_manager = { get_model: async () => ({ get: () => source }) };
  window.models = [];
  for (const state of states) {
    const listeners = {}, asked = [];
    const model = {
      widget_manager, asked,
      get: key => state[key],
      on: (event, call) => (listeners[event] ??= []).push(call),
      off: () => {},
      send: content => asked.push(content),
      tell: (event, ...said) => (listeners[event] ?? []).forEach(call => call(...said)),
      set: (key, value) => { state[key] = value; model.tell("change:" + key, model); },
    };
    window.models.push(model);
    const address = URL.createObjectURL(new Blob([esm], { type: "text/javascript" }));
    const widget = (await import(address)).default;
    await widget.initialize({ model });
    window.show = (model, id) => {
      const el = Object.assign(document.createElement("div"), { id });
      document.body.append(el);
      return widget.render({ model, el });
    };
  }
}
"""


def figure(heights: list[float], color: str = theme.style("ttt-linear").color) -> go.Figure:
    """A line of a name and a legend."""
    drawn = go.Figure(layout=dict(width=500, height=300))
    return drawn.add_scatter(x=[1.0, 2.0, 3.0], y=heights, mode="lines", name="a", line=dict(color=color))


@pytest.fixture(scope="module")
def plots():
    return [Plot(figure([1.0, 3.0, 2.0]), "one"), Plot(figure([2.0, 2.0, 2.0]), "two")]


@pytest.fixture
def page(lab, plots):
    page = lab.browser.new_page(viewport={"width": 900, "height": 700})
    page.set_content("<body style='margin: 0'></body>")
    states = [plot.get_state(["figure", "label", "least_width", "library"]) for plot in plots]
    page.evaluate(HOST, [plots[0]._esm, base64.b64encode(library().source).decode(), states])
    yield page
    page.close()


def drawn(page, name: str, revision: int) -> dict:
    """What stands in the element called `name` once it shows this revision."""
    page.wait_for_selector(f"#{name} > [data-revision='{revision}']", timeout=300_000)
    return page.evaluate(
        """name => {
          const plot = document.getElementById(name).firstChild, line = plot.querySelector(".js-line");
          return { y: [...plot.data[0].y], stroke: line.style.stroke, width: plot.layout.width,
                   d: line.getAttribute("d") };
        }""",
        name,
    )


def test_plotly_comes_once_and_stays_out_of_the_way(page):
    page.evaluate("() => { show(models[0], 'first'); show(models[1], 'second'); }")
    assert drawn(page, "first", 0)["y"] == [1, 3, 2] and drawn(page, "second", 0)["y"] == [2, 2, 2]
    assert page.locator("head script").count() == 1 and page.evaluate("() => window.Plotly === undefined")
    assert page.locator(".modebar-btn").count() == 0
    assert page.evaluate("() => models[0].asked[0]") == {"ask": "state", "revision": 0}


def test_a_difference_changes_every_view_and_a_gap_is_noticed(page, monkeypatch):
    plot, sent = Plot(figure([1.0, 3.0, 2.0]), "one"), []
    monkeypatch.setattr(plot, "send", lambda content: sent.append(content))
    plot.show(figure([1.0, 1.0, 5.0]))
    plot.show(figure([0.0, 1.0, 0.0]))
    page.evaluate("() => { show(models[0], 'first'); show(models[0], 'second'); }")
    before = drawn(page, "first", 0)["d"]
    page.evaluate("message => models[0].tell('msg:custom', message)", sent[0])
    for name in ("first", "second"):
        after = drawn(page, name, 1)
        assert after["y"] == [1, 1, 5] and after["d"] != before
    page.evaluate("message => models[0].tell('msg:custom', message)", sent[0])  # once more: nothing to do
    assert page.evaluate("() => models[0].asked.length") == 1
    late = {"difference": {**sent[1]["difference"], "revision": 9}}
    page.evaluate("message => models[0].tell('msg:custom', message)", late)
    assert page.evaluate("() => models[0].asked.at(-1)") == {"ask": "state"}
    page.evaluate("figure => models[0].set('figure', figure)", plot.figure)
    assert drawn(page, "first", 2)["y"] == [0, 1, 0]


def test_it_is_as_wide_as_its_place_and_takes_the_page_s_colors(page):
    page.evaluate("() => show(models[0], 'first')")
    light = drawn(page, "first", 0)
    assert light["width"] == 500 and light["stroke"] == "rgb(0, 58, 54)"
    page.set_viewport_size({"width": 400, "height": 700})
    page.wait_for_function("() => document.querySelector('#first > div').layout.width === 400", timeout=300_000)
    page.set_viewport_size({"width": 200, "height": 700})
    page.wait_for_function("() => document.querySelector('#first > div').layout.width === 300", timeout=300_000)
    page.evaluate(
        """() => {
          document.body.style.setProperty("--jp-layout-color0", "#111111");
          document.body.dataset.jpThemeName = "dark";
        }"""
    )
    page.wait_for_function(
        "() => document.querySelector('.js-line').style.stroke === 'rgb(129, 254, 215)'", timeout=300_000
    )
