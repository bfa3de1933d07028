"""The outer loop learns; a run that is broken off and resumed is the unbroken run; what cannot be done is said."""

import json
import os
import signal
import threading
from dataclasses import replace

import pytest
import torch
from torch import nn

import nl_course.training as training
from nl_course.errors import CourseError
from nl_course.model import LanguageModel, ModelConfig
from nl_course.optimizers import OPTIMIZERS
from nl_course.tasks import text
from nl_course.training import Diverged, TrainingConfig, evaluate, gradient, token_losses, train
from nl_course.training.checkpoint import load_model
from nl_course.training.interrupts import SIGNALS, Interrupts
from nl_course.training.run_folder import read_metrics

STREAM = (torch.arange(4000) * 7 % 11 + torch.arange(4000) // 500).to(torch.uint8)
CONFIG = TrainingConfig(steps=8, batch_size=4, length=12, learning_rate=0.02, warmup=2, save_every=3, evaluate_every=4)


class StandIn(nn.Module):
    """A bigram model with dropout, so that a step draws random numbers."""

    def __init__(self, dropout=0.2):
        super().__init__()
        self.embedding = nn.Embedding(32, 8)
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(8, 32)

    def forward(self, tokens, state=None):
        return self.out(self.drop(self.embedding(tokens.long()))), state


def model(seed=0, dropout=0.2):
    torch.manual_seed(seed)
    return StandIn(dropout)


def curve(run):
    """What must be the same bit for bit; times may differ."""
    names = ("step", "loss", "grad_norm", "learning_rate", "tokens", "held_out_loss")
    return [{name: line[name] for name in names if name in line} for line in run.metrics]


def contents(path):
    """The description of a file of tensors, and all of its numbers. Its bytes may hold them in another order."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def run(net, folder=None, config=CONFIG, **options):
    options = {"held_out": STREAM[:300], "progress": False, **options}
    return train(net, STREAM, config, folder=folder, **options)


# -- learning -------------------------------------------------------------------------------------------------
def test_a_language_model_learns_and_leaves_its_run_in_a_folder(tmp_path):
    torch.manual_seed(0)
    net = LanguageModel(ModelConfig(vocab=32, width=16, layers=1, heads=2, hidden=16))
    config = replace(CONFIG, steps=40, batch_size=8, save_every=0)
    result = run(net, tmp_path, config)
    assert result.step == 40 and not result.interrupted and not result.stopped
    assert result.losses[0] > 3.2 and result.losses[-1] < 2.0
    assert [step for step, _ in result.held_out] == list(range(4, 41, 4))
    assert read_metrics(tmp_path) == result.metrics
    assert json.loads((tmp_path / "run.json").read_text())["asked"]["steps"] == 40
    again = load_model(tmp_path / "model.safetensors")
    assert evaluate(again, STREAM[:300], 12).loss == result.held_out[-1][1]


def test_how_a_batch_is_split_and_what_is_ignored_do_not_matter():
    net = model(dropout=0.0).double()
    inputs, targets = STREAM[:48].view(4, 12).long(), STREAM[1:49].view(4, 12).long().clone()
    targets[0, 3:] = training.IGNORED
    targets[3] = training.IGNORED
    outcomes = []
    for accumulate in (1, 2, 4):
        net.zero_grad()
        loss = gradient(net, inputs, targets, replace(CONFIG, accumulate=accumulate))
        outcomes.append([loss, *(p.grad.clone() for p in net.parameters())])
    for other in outcomes[1:]:
        for a, b in zip(outcomes[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)  # cross entropy is taken in float32
    scored = targets != training.IGNORED
    assert float(outcomes[0][0]) == pytest.approx(
        float(token_losses(net, inputs, targets)[scored].mean().detach()), rel=1e-6
    )


def test_decay_is_on_matrices_only_and_clipping_limits_the_norm():
    net = model()
    groups = training.default_optimizer(net, CONFIG).param_groups
    assert {p.dim() for p in groups[0]["params"]} == {2} and groups[0]["weight_decay"] == 0.1
    assert {p.dim() for p in groups[1]["params"]} == {1} and groups[1]["weight_decay"] == 0.0
    seen = []

    class Watch(torch.optim.SGD):
        def step(self, closure=None):
            grads = [p.grad for g in self.param_groups for p in g["params"]]
            seen.append(torch.stack([g.norm() for g in grads]).norm().item())

    result = run(net, None, replace(CONFIG, clip=0.01, steps=3), optimizer=lambda m, c: Watch(m.parameters(), lr=0.1))
    assert (
        all(norm == pytest.approx(0.01, rel=1e-3) for norm in seen)
        and min(m["grad_norm"] for m in result.metrics) > 0.1
    )


def test_a_step_is_clipped_once_as_a_whole_and_a_clip_of_0_is_no_limit():
    def first_step(clip, accumulate=1):
        """How one step of gradient descent moves the output's weights, and the norm before the clip."""
        net = model(dropout=0.0)
        with torch.no_grad():
            net.out.weight.mul_(20)  # so that the gradient is longer than 1
        before = net.out.weight.detach().clone()
        config = replace(CONFIG, clip=clip, accumulate=accumulate, steps=1, warmup=0)
        result = run(net, None, config, held_out=None, optimizer=lambda m, c: torch.optim.SGD(m.parameters(), lr=1.0))
        return net.out.weight.detach() - before, result.metrics[0]["grad_norm"]

    free, norm = first_step(0)
    assert norm > 1.5
    assert torch.equal(first_step(1e9)[0], free)
    for accumulate in (1, 2):
        clipped, same_norm = first_step(1, accumulate)
        assert same_norm == pytest.approx(norm, rel=1e-5)
        torch.testing.assert_close(clipped, free / norm, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_by_name_trains_and_a_resumed_run_is_the_unbroken_one(name, tmp_path):
    rate = 0.5 if name == "sgd" else 0.02
    options = {"slow_every": 3} if name == "m3" else {}
    config = replace(CONFIG, steps=10, learning_rate=rate, optimizer=name, optimizer_options=options)
    assert json.loads(json.dumps(config.to_dict()))["optimizer"] == name
    whole = run(model(), tmp_path / "whole", config)
    assert whole.losses[-1] < whole.losses[0]
    run(model(), tmp_path / "broken", config, stop=lambda metrics: metrics["step"] == 5)
    assert curve(run(model(seed=4), tmp_path / "broken", config, resume=True)) == curve(whole)


def test_the_name_of_an_optimizer_is_checked_before_anything_is_made():
    with pytest.raises(CourseError, match="Did you mean 'muon'"):
        TrainingConfig(optimizer="moun")
    with pytest.raises(CourseError, match="option of m3 'slow_evry'"):
        run(model(), None, replace(CONFIG, optimizer="m3", optimizer_options={"slow_evry": 3}))


def test_any_optimizer_follows_the_schedule():
    taken = []

    class Watch(torch.optim.SGD):
        def step(self, closure=None):
            taken.append(self.param_groups[0]["lr"])
            super().step(closure)

    result = run(model(), optimizer=lambda m, c: Watch(m.parameters(), lr=1.0))
    rates = [line["learning_rate"] for line in result.metrics]
    assert rates[0] == pytest.approx(0.02 / 3) and max(rates) == 0.02 and rates[-1] == pytest.approx(0.002)
    # Its own peak is 1, the config's 0.02: what is reported is of the config, and what is taken of the optimizer.
    assert taken == pytest.approx([rate / 0.02 for rate in rates])


def test_data_and_measurement_may_be_functions():
    steps = []

    def data(step):
        steps.append(step)
        return STREAM[:24].view(2, 12).long(), STREAM[1:25].view(2, 12).long()

    result = train(model(), data, CONFIG, held_out=lambda net: {"recall": 0.5}, progress=False)
    assert steps == list(range(8)) and [m.get("recall") for m in result.metrics] == [None, None, None, 0.5] * 2


def test_the_loss_by_position_is_the_mean_over_even_windows():
    net = model(dropout=0.5).train()
    evaluation = evaluate(net, STREAM[:53], length=5, batches=2, batch_size=2)
    assert net.training and evaluation.tokens == 20 and evaluation.by_position.shape == (5,)
    windows = torch.stack([STREAM[s : s + 6] for s in (0, 15, 31, 47)]).long()
    expected = token_losses(net.eval(), windows[:, :-1], windows[:, 1:]).detach()
    evaluate(net, STREAM[:53], length=5)
    assert not net.training  # as it was before
    torch.testing.assert_close(evaluation.by_position, expected.mean(0))
    assert evaluation.loss == pytest.approx(expected.mean().item())
    assert evaluate(net, STREAM[:6], 5).tokens == 5  # one window is enough
    with pytest.raises(CourseError, match="has 5 tokens; windows of 5 need 6"):
        evaluate(net, STREAM[:5], 5)


def test_bf16_is_a_band_around_fp32():
    exact = run(model(dropout=0.0), None, CONFIG).losses
    rough = run(model(dropout=0.0), None, replace(CONFIG, precision="bf16")).losses
    assert rough != exact and rough == pytest.approx(exact, rel=0.02)


# -- broken off and resumed -------------------------------------------------------------------------------------
def test_a_resumed_run_is_the_unbroken_run_bit_for_bit(tmp_path):
    whole_net, broken_net = model(), model()
    unbroken = run(whole_net, tmp_path / "whole")
    first = run(broken_net, tmp_path / "broken", stop=lambda metrics: metrics["step"] == 5)
    assert first.stopped and first.step == 5
    assert not (tmp_path / "broken" / "model.safetensors").exists()
    torch.manual_seed(99)  # another process, another model to fill, other random numbers lying about
    resumed_net = model(seed=7)
    resumed = run(resumed_net, tmp_path / "broken", resume=True)
    assert curve(resumed) == curve(unbroken) and resumed.step == 8
    finished = [contents(tmp_path / name / "model.safetensors") for name in ("broken", "whole")]
    assert finished[0] == finished[1]
    assert [line["loss"] for line in read_metrics(tmp_path / "broken")] == unbroken.losses
    for a, b in zip(resumed_net.parameters(), whole_net.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_crash_loses_only_what_came_after_the_last_checkpoint(tmp_path):
    unbroken = run(model(), tmp_path / "whole")

    def crash(metrics):
        if metrics["step"] == 5:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        run(model(), tmp_path / "crashed", on_step=crash)
    log = tmp_path / "crashed" / "metrics.jsonl"
    log.write_text(log.read_text() + '{"step": 6, "lo')  # a line cut off in the middle
    resumed = run(model(seed=3), tmp_path / "crashed", resume="auto")  # from step 3
    assert curve(resumed) == curve(unbroken)
    assert [line["step"] for line in read_metrics(tmp_path / "crashed")] == list(range(1, 9))


def test_what_a_callback_draws_at_random_does_not_change_the_run():
    plain = run(model())
    noisy = run(model(), on_step=lambda metrics: torch.rand(metrics["step"]))
    assert curve(plain) == curve(noisy)


def test_a_finished_run_resumes_to_itself(tmp_path):
    done = run(model(), tmp_path)
    assert curve(run(model(1), tmp_path, resume=True)) == curve(done)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("where", ["data", "forward", "update", "callback"])
def test_ctrl_c_and_its_relatives_anywhere_leave_the_last_whole_step(tmp_path, where, name):
    if not hasattr(signal, name):
        pytest.skip(f"there is no {name} here")
    now = {"step": 0, "armed": False}

    def press(here, step):
        if now["armed"] and here == where and step == 5:
            now["armed"] = False
            os.kill(os.getpid(), getattr(signal, name))

    class Net(StandIn):
        def forward(self, tokens, state=None):
            press("forward", now["step"])
            return super().forward(tokens, state)

    class Adam(torch.optim.AdamW):
        def step(self, closure=None):
            press("update", now["step"])
            return super().step(closure)

    def data(step):
        now["step"] = step
        press("data", step)
        return text.batch(STREAM, step, 4, 12)

    def go(folder, seed=0, **options):
        torch.manual_seed(seed)
        options |= {"optimizer": lambda net, config: Adam(net.parameters()), "progress": False, "folder": folder}
        return train(Net(), data, CONFIG, on_step=lambda metrics: press("callback", metrics["step"]), **options)

    unbroken = go(tmp_path / "whole")
    now["armed"] = True
    broken = go(tmp_path / "broken")
    assert broken.interrupted and broken.step == (6 if where == "update" else 5) and not now["armed"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert {signal.getsignal(number) for number in SIGNALS[1:]} <= {signal.SIG_DFL}
    resumed = go(tmp_path / "broken", seed=4, resume=True)
    assert curve(resumed) == curve(unbroken) and not resumed.interrupted


def test_interrupts_wait_while_held_and_leave_other_handlers_alone():
    order = []

    def held():
        with Interrupts() as interrupts:
            with interrupts.hold():
                os.kill(os.getpid(), signal.SIGINT)
                order.append("held to the end")
            order.append("never here")

    with pytest.raises(KeyboardInterrupt):
        held()
    assert order == ["held to the end"]
    mine = lambda *_: order.append("mine")  # noqa: E731
    old = signal.signal(signal.SIGINT, mine)
    try:
        with Interrupts():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, old)
    assert order[-1] == "mine"
    thread = threading.Thread(target=lambda: order.append(Interrupts().__enter__()))
    thread.start()
    thread.join()
    assert isinstance(order[-1], Interrupts)  # outside the main thread there is nothing to catch


# -- what cannot be done ---------------------------------------------------------------------------------------
def test_a_run_that_diverges_says_so_and_keeps_its_last_good_weights(tmp_path):
    net = model()

    def poison(metrics):
        if metrics["step"] == 4:
            poison.saved = {n: p.clone() for n, p in net.state_dict().items()}
            net.out.bias.register_hook(lambda grad: grad * float("nan"))

    with pytest.raises(Diverged, match=r"diverged at step 4: loss .*smaller learning rate"):
        run(net, tmp_path, on_step=poison)
    assert all(torch.equal(p, poison.saved[n]) for n, p in net.state_dict().items())
    assert curve(run(model(1), tmp_path, resume=True)) == curve(run(model()))


def test_a_folder_with_a_run_is_not_overwritten_by_mistake(tmp_path):
    run(model(), tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    for options, words in (
        ({}, "already holds a run; resume it, or take another folder"),
        ({"resume": "yes"}, "resume 'yes' is not known; choose one of: True, False, auto"),
        ({"resume": True, "config": replace(CONFIG, learning_rate=0.5)}, "started with learning_rate = 0.02, not 0.5"),
        ({"resume": True, "config": replace(CONFIG, steps=9)}, "started with steps = 8, not 9"),
    ):
        with pytest.raises(CourseError, match=words):
            run(model(), tmp_path, **options)
    with pytest.raises(CourseError, match=r"the text of the run in .* has changed since it was started"):
        train(model(), STREAM[:-1], CONFIG, folder=tmp_path, resume=True, progress=False)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    run(model(), tmp_path, replace(CONFIG, save_every=2, log_every=4), resume=True)  # reporting may change


def test_a_checkpoint_cut_short_is_named_and_left_as_it_is(tmp_path):
    run(model(), tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(CourseError, match=r"checkpoint\.safetensors is damaged"):
        run(model(), tmp_path, resume="auto")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_missing_folders_and_short_texts_are_refused_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CourseError, match=r"no checkpoint to resume from at .*nowhere"):
        run(model(), tmp_path / "nowhere", resume=True)
    with pytest.raises(CourseError, match="nothing to resume from: the run was given no folder"):
        run(model(), None, resume=True)
    with pytest.raises(CourseError, match=r"cannot use .*inside as the run's folder: .*file is a file"):
        run(model(), tmp_path / "file" / "inside")
    with pytest.raises(CourseError, match="has 12 bytes and needs 13"):
        train(model(), STREAM[:12], CONFIG, progress=False)
    with pytest.raises(CourseError, match="held-out text has 12 tokens"):
        run(model(), held_out=STREAM[:12])
    with pytest.raises(CourseError, match="no run in"):
        read_metrics(tmp_path)


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("steps", 0, "steps must be a whole number of at least 1, not 0"),
        ("length", -5, "length must be a whole number of at least 1, not -5"),
        ("batch_size", 2.5, "batch_size must be a whole number"),
        ("learning_rate", float("nan"), "learning_rate must be a number of at least 0"),
        ("clip", float("inf"), "clip must be a finite number"),
        ("learning_rate", "fast", "learning_rate must be a number"),
        ("precision", "bf-16", "Did you mean 'bf16'"),
        ("betas", (0.9, 1.0), "betas must be at least 0 and below 1, not 1.0"),
        ("betas", 3, "betas must be two numbers of at least 0 and below 1, not 3"),
        ("optimizer_options", "fast", "optimizer_options must be a dict of options by name, not 'fast'"),
        ("recompute", "no", "recompute must be True or False, not 'no'"),
        ("accumulate", 3, "batch_size 16 does not split into 3"),
        ("seed", -1, "seed must be a whole number of at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(setting, value, words):
    with pytest.raises(CourseError, match=words):
        TrainingConfig(**{setting: value})


def test_a_config_survives_json_and_an_unknown_setting_is_refused():
    config = TrainingConfig.from_dict(json.loads(json.dumps(CONFIG.to_dict())))
    assert config == CONFIG
    with pytest.raises(CourseError, match="Did you mean 'learning_rate'"):
        TrainingConfig.from_dict({"learnin_rate": 1})


@pytest.mark.gpu
def test_on_a_gpu_a_run_in_bf16_stays_near_the_processors_and_resumes(tmp_path):
    expected = run(model(dropout=0.0)).losses
    stopped = run(model(dropout=0.0).cuda(), tmp_path, stop=lambda metrics: metrics["step"] == 5)
    resumed = run(model(1, dropout=0.0).cuda(), tmp_path, resume=True)
    assert stopped.stopped and resumed.losses == pytest.approx(expected, rel=0.03)
    assert load_model(tmp_path / "model.safetensors", "cuda", build=lambda _: model()).out.weight.is_cuda
