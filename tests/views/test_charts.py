"""Charts: the theme's styles, a sentence in the picture's place, axes with names."""

import json

from nl_course.views.kit import theme
from nl_course.views.kit.charts import chart
from nl_course.views.kit.plot import LEAST_WIDTH, STILL, STILLS, least_width, plain


def test_a_chart_says_what_it_shows_and_uses_the_theme():
    picture = chart("It rises.", x="tokens", y="GB", log="x").line([1, 2], [3, 4], "a", memory="gqa")
    picture.points([1], [2], "b", memory="latent-attention", text=["here"]).bars(
        ["c"], [5], "d", memory="outer", pattern="/"
    )
    line, points, bar = picture.figure.data
    assert line.line.color == theme.style("gqa").color and line.line.dash == "solid"
    assert points.marker.symbol == theme.style("latent-attention").marker and points.text == ("here",)
    assert bar.marker.pattern.shape == "/" and bar.orientation == "h"
    assert picture.figure.layout.xaxis.type == "log" and picture.figure.layout.yaxis.type is None
    assert picture.figure.layout.yaxis.title.text == "GB"


def test_what_stands_in_the_notebook_is_the_sentence():
    picture = chart("It rises.").level(3, "limit")
    bundle = picture._repr_mimebundle_()
    assert bundle["text/plain"] == "Chart: It rises." and "application/vnd.jupyter.widget-view+json" in bundle
    assert picture.figure.layout.annotations[0].text == "limit"


def test_ticks_and_levels_of_logarithmic_axes():
    wide, narrow = chart("Wide.", y="GB", log="y"), chart("Narrow.", y="GB", log="y")
    wide.line([1, 2], [1, 5000], "a").level(100, "limit")._repr_mimebundle_()
    narrow.line([1, 2], [2, 3], "a", memory="")._repr_mimebundle_()
    assert wide.figure.layout.yaxis.dtick == 1 and narrow.figure.layout.yaxis.dtick is None
    assert wide.figure.layout.shapes[0].y0 == 100 and wide.figure.layout.annotations[0].y == 2
    assert narrow.figure.data[0].line.color == theme.MUTED


def test_a_long_legend_stands_beside_the_axes():
    few, many = chart("Few."), chart("Many.")
    for picture, names in ((few, ("a", "b")), (many, ("window of 64 (no memory)", *"abcdefgh"))):
        for name in names:
            picture.line([1, 2], [3, 4], name)
        picture._repr_mimebundle_()
    assert few.figure.layout.legend.x is None and many.figure.layout.legend.x > 1


def test_a_chart_travels_to_pages_without_a_kernel(monkeypatch):
    picture = chart("It rises.", y="GB").line([1, 2], [3, 4], "a")
    assert STILL not in picture._repr_mimebundle_()
    monkeypatch.setenv(STILLS, "1")
    shown = picture._repr_mimebundle_()[STILL]
    figure = json.loads(shown["figure"])
    assert shown["read_out"] == "It rises." and [trace["name"] for trace in figure["data"]] == ["a"]
    assert figure["layout"]["yaxis"]["title"]["text"] == "GB" and "colorway" in figure["layout"]["template"]["layout"]


def least_width_with(names: list[str], **layout) -> int:
    """Of a chart with a line for each of the names, once it was shown."""
    picture = chart("What it shows.", **layout)
    for name in names:
        picture.line([1, 2], [1, 2], name)
    picture._repr_mimebundle_()
    return least_width(plain(picture.figure))


def test_a_legend_takes_no_room_from_the_axes_on_a_phone():
    assert least_width_with(["alone, whatever its length"]) == LEAST_WIDTH
    assert least_width_with(["one", "two"]) == LEAST_WIDTH
    beside = ["window of 64 (no memory)", "TTT-Linear", "LMM of one layer", "MAC of two layers", "MAG"]
    assert least_width_with(beside) >= LEAST_WIDTH + 6 * len(beside[0])
    axis = "learnt: fall of the loss on the new corpus (nats per byte)"
    assert least_width_with(["one"], x=axis) >= 7 * len(axis)
    assert least_width_with(["one", "two"], title="A memory learns to keep a digit") > LEAST_WIDTH
