"""Who keeps what when the corpus changes? Levels of several clocks beside one plain MLP of as many parameters.

Small language models are first trained in the ordinary way on general text. Then each reads a stream: the old corpus, a
new one, the old one again. From here on only its levels learn, by one plain step of gradient descent at each of their
boundaries. Everything else is frozen. On the way each is evaluated on windows of held-out text of both corpora.

Four arms. `cms`: a chain of three levels with three clocks; a step is as long as the chunk's summed gradient asks for
(the paper's equation 71). `cms, equal steps`: the same with the mean gradient, so that a slow level learns less. `one
clock`: the very same model, trained start and all, with the fastest clock for every level. `plain`: one MLP with as
many parameters as the chain, fast clock.

Each reads at several rates. A plain MLP with a smaller rate forgets less too, and learns less, so the question is what
an arm keeps for what it learns. Arms are therefore compared at equal learning, by the rule of equal_gain.py: what each
forgets of the old corpus where it has learned as much of the new one, less what the plain MLP forgets there, seed by
seed. That takes the place of a search for one rate (protocol.py). Rates count for the mean gradient of a chunk of the
fastest clock: with `per_token` a level of 4 times its period has 4 times the rate.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from nl_course.nested import LevelConfig, NestedConfig, NestedLanguageModel
from nl_course.nested.probe import follow
from nl_course.record.equal_gain import Arms, at_equal_gain
from nl_course.record.provenance import Recording
from nl_course.record.sizes import settings_replaced
from nl_course.record.texts import recording_domain
from nl_course.seeding import seeded
from nl_course.tasks.continual import Domain, domain_stream, visits
from nl_course.training import TrainingConfig, evaluate_windows, train


def run(assets: Path, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Trains and reads; writes `runs/continual.json`."""
    config = settings_replaced("continual", quick)
    recording = Recording("continual", config, device)
    texts = {side: probe_windows(config, side).to(device) for side in ("old", "new")}
    runs = {}
    for seed in config["seeds"]:
        tokens = streams(config, seed).to(device)
        starts = {levels: trained(config, levels, seed, device) for levels in levels_wanted(config)}
        for name, arm in config["arms"].items():
            for rate in arm["rates"]:
                model = clocked(starts[len(arm["clocks"])], config, arm, rate)
                curves, _ = follow(model, tokens, config["every"], texts)
                row = {"arm": name, "clocks": arm["clocks"], "rate": rate, "parameters": model.parameter_count()}
                results = runs.setdefault((name, rate), {**row, "old": [], "new": [], "read": []})
                for what, values in curves.items():
                    results[what].append([_rounded(losses) for losses in values.tolist()])  # (readers, places)
                print(f"seed {seed}, {name} at rate {rate:g}: read", flush=True)
    switches = [i * config["bytes_each"] for i in range(3)]
    results = {
        "units": "losses in nats per byte, by seed, reader and place; old and new on held-out books. at_equal_gain: "
        "what an arm forgets of the old corpus where it has gained as much on the new one as the others, at a share "
        "of the gain that all reach, in nats per byte; less_plain the difference from the plain MLP by seed, with its "
        "interval",
        "places": list(range(0, 3 * config["bytes_each"] + 1, config["every"])),
        "switches": switches,
        "runs": list(runs.values()),
        "at_equal_gain": at_equal_gain(gains_of(runs.values(), config), against="plain"),
    }
    return [recording.write(assets / "runs" / "continual.json", results)]


def domain_of(config: dict, name: str) -> Domain:
    """A corpus that the models are trained on, read or are asked about."""
    corpora = config["corpora"] if "corpora" in config else (config["old"], config["new"])
    return recording_domain(config, name, [*config["general"], *corpora])


def _rounded(losses: list[float]) -> list[float]:
    return [round(loss, 4) for loss in losses]


def gains_of(runs: Iterable[dict], config: dict) -> Arms:
    """Of each arm, by seed, its runs by growing rate: (gain on the new corpus, forgetting of the old) over the visit of
    the new one, means of the readers in nats per byte. `runs` are those of the recording."""
    start, end = config["bytes_each"] // config["every"], 2 * config["bytes_each"] // config["every"]
    arms: Arms = {}
    for run in sorted(runs, key=lambda run: run["rate"]):
        by_seed = arms.setdefault(run["arm"], [[] for _ in run["old"]])
        for points, old, new in zip(by_seed, run["old"], run["new"], strict=True):
            old_losses = torch.tensor(old, dtype=torch.float64).mean(dim=0)  # (places,)
            new_losses = torch.tensor(new, dtype=torch.float64).mean(dim=0)  # (places,)
            gain = (new_losses[start] - new_losses[end]).item()
            forgetting = (old_losses[end] - old_losses[start]).item()
            points.append((gain, forgetting))
    return arms


def levels_wanted(config: dict) -> list[int]:
    """The numbers of levels that the arms have, each once."""
    return sorted({len(arm["clocks"]) for arm in config["arms"].values()})


def sizes(config: dict, clocks: Sequence[int], rates: Sequence[float]) -> NestedConfig:
    """A model with one level for each clock, which share the hidden units."""
    model = config["model"]
    hidden = model["hidden"] // len(clocks)
    levels = [LevelConfig(hidden, clock, rate, learn_rate=False) for clock, rate in zip(clocks, rates, strict=True)]
    return NestedConfig(
        vocab=256,
        width=model["width"],
        layers=model["layers"],
        heads=model["heads"],
        levels=tuple(levels),
        options={"window": model["window"]},  # with a window, attention can read a text of any length
        reduction="mean",
    )


def trained(config: dict, levels: int, seed: int, device: str = "cpu") -> NestedLanguageModel:
    """A model whose levels rest, trained on general text as any other is."""
    with seeded(seed):
        model = NestedLanguageModel(sizes(config, [0] * levels, [0] * levels)).to(device)
    training = TrainingConfig.from_dict({**config["training"], "seed": seed})
    general = [domain_of(config, name) for name in config["general"]]
    train(model, visits(general, 1, training.batch_size, training.length, seed), training, progress=False)
    return model.requires_grad_(False)


def clocked(start: NestedLanguageModel, config: dict, arm: dict, rate: float) -> NestedLanguageModel:
    """The same weights, with an arm's clocks: arm["clocks"], and with arm["per_token"] rates in proportion to them."""
    clocks = arm["clocks"]
    rates = [rate] * len(clocks)
    if arm.get("per_token"):
        rates = [rate * (clock / min(clocks)) for clock in clocks]
    with seeded(0):  # what is drawn here is overwritten
        model = NestedLanguageModel(sizes(config, clocks, rates)).to(start.embedding.weight.device)
    model.load_state_dict(start.state_dict())
    return model.requires_grad_(False)


def streams(config: dict, seed: int) -> Tensor:
    """A text for each reader, (readers, 3 visits + 1): the old corpus, the new one, the old one going on."""
    old, new = domain_of(config, config["old"]), domain_of(config, config["new"])
    rows = []
    for reader in range(config["readers"]):
        both = domain_stream([old, new], config["bytes_each"], rounds=2, seed=1000 * seed + reader)
        rows.append(both.tokens[: 3 * config["bytes_each"] + 1])
    return torch.stack(rows)


def probe_windows(config: dict, side: str) -> Tensor:
    """Windows of held-out books of the old or the new corpus, (windows, window + 1)."""
    stream = domain_of(config, config[side]).held_out
    starts = evaluate_windows(stream, config["window"], config["windows"])
    return torch.stack([stream[s : s + config["window"] + 1] for s in starts]).long()
