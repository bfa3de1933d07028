"""Sends a live figure only what changed between two pictures: small messages, and a learner's zoom stays."""

from copy import deepcopy

import numpy as np
import plotly.graph_objects as go


def flat(tree: dict, prefix: str = "") -> dict:
    """Nested dicts as one dict with dotted keys: {"marker": {"size": 3}} -> {"marker.size": 3}."""
    leaves = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves.update(flat(value, f"{prefix}{key}."))
        else:
            leaves[prefix + key] = value
    return leaves


def same(one, other) -> bool:
    """Equality that also takes arrays (NaN equals NaN) and lists of them."""
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        one, other = np.asarray(one), np.asarray(other)
        floats = one.dtype.kind in "fc" and other.dtype.kind in "fc"
        return one.shape == other.shape and np.array_equal(one, other, equal_nan=floats)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other))
    return bool(one == other)


def changes(before: dict, after: dict) -> dict:
    """The dotted keys whose values differ, with the new value (None where the key is gone)."""
    before, after = flat(before), flat(after)
    differ = {key: value for key, value in after.items() if key not in before or not same(before[key], value)}
    return {**{key: None for key in before if key not in after}, **differ}


def send_changes(live: go.FigureWidget, before: go.Figure | None, after: go.Figure) -> None:
    """Makes `live`, which shows `before` (None: nothing yet), show `after`."""
    if before is None or [t.type for t in before.data] != [t.type for t in after.data]:
        live.data = []
        with live.batch_update():
            _edit(live.layout, _layout(before), _layout(after))
        live.add_traces(list(after.data))
        return
    with live.batch_update():
        for shown, old, new in zip(live.data, before.data, after.data):
            _edit(shown, old.to_plotly_json(), new.to_plotly_json())
        _edit(live.layout, _layout(before), _layout(after))


def settle(live: go.FigureWidget) -> None:
    """Puts the whole figure into the widget's state. Changes are sent as messages, and those that reach a browser
    which is still loading the plot are lost: it then starts from this state. Call it when the figure is shown."""
    live._widget_data = deepcopy(live._data)
    live._widget_layout = deepcopy(live._layout)


def _layout(figure: go.Figure | None) -> dict:
    layout = {} if figure is None else figure.layout.to_plotly_json()
    layout.pop("template", None)  # never changes, and is long
    return layout


def _edit(target, before: dict, after: dict) -> None:
    for key, value in changes(before, after).items():
        root = key.split(".")[0]
        if root not in target:  # a second axis does not exist before it is named
            target[root] = {}
        target[key] = value
