import sys, json, uuid
sys.path.insert(0, "/tmp/w/bin")
import rep
A = "notebooks/04_test_time_training.ipynb"
B = "notebooks/04b_inside_test_time_training.ipynb"
old = rep.load(A)
cells = {c["id"]: c for c in old["cells"]}
core, further = [], []

def put(where, cid, source=None, kind=None, tags=None):
    if cid in cells:
        c = cells[cid]
    else:
        c = {"cell_type": kind, "id": cid, "metadata": {"tags": ["core"]}, "source": []}
        if kind == "code":
            c.update(execution_count=None, outputs=[])
        cells[cid] = c
    c["metadata"]["tags"] = ["core" if t == "extra" else t for t in c["metadata"].get("tags", [])]
    if tags is not None:
        c["metadata"]["tags"] = ["core", *tags]
    if source is not None:
        c["source"] = rep.lines(source.strip("\n"))
    where.append(c)
CHECK = ["nbval-check-output"]

# =================================================================== core
put(core, "00-04-test-time-training-a", r'''
# 04 · Test-time training: a memory that learns by gradient steps

**Where we are.** Still at the bars of [the map](00_start_here.ipynb#The-map:-what-does-each-memory-keep?) that do not grow. In 03 we
found the rule of writing by hand. Here the memory is a small model, writing is training, and a second loop trains the first.

**Goals.** See that a hidden state can be a *model* and a write a *training step*. Build that layer in a dozen lines. Measure what the
outer loop teaches the inner one, and through which path. Then compare two language models, one that learns while it reads and one that
attends: what was gained, and what was not.

**Minutes.** About 70, exercises included. The machine needs about one.

**What you need to know.** Notebook 03: a memory as a matrix, and the delta rule as one step of gradient descent. The chain rule.

[04b](04b_inside_test_time_training.ipynb) goes further: a trained layer under the microscope, its learned start, its exact state, and
inner loops that explode. No later notebook needs it.
''')
put(core, "02-import-torch-torch-manua")
put(core, "03-a-model-that-keeps-trai", r'''
## A model that goes on training reads better, but every user needs a copy

Notebook 03 ended with an observation: the delta rule *is* one gradient step on a squared error. If a write is training, why not simply
train the whole model while it reads?

Try it. The attention model of notebook 01 reads a book that it has never seen, in pages of 128 bytes. It first predicts a page, and we
note its loss. Only then does it take **one** gradient step on that page. So each page is new when it counts, and the comparison is fair.
The method is old. It is called *[dynamic evaluation](glossary.md#dynamic-evaluation)* (Krause et al. 2018, arXiv 1709.07432).
''')
put(core, "04-from-torch-nn-functional", r'''
from torch.nn.functional import cross_entropy


def read_and_learn(model, pages, step):
    losses = []
    for x, y in pages:
        loss = cross_entropy(model(x[None])[0][0], y)
        losses.append(loss.item())  # first it predicts ...
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for weight, gradient in zip(model.parameters(), gradients):
                weight -= step * gradient  # ... then it learns the page
    return torch.tensor(losses)
''')
put(core, "05-a-step-of-0-is-the-froze", r'''
A step of 0 leaves the model frozen. **Predict first.** The book has 48 pages, about six thousand bytes. The training before read
millions. By how much does a step of 0.05 per page lower the loss on the second half of the book: by almost nothing, by a sixth, or by
half? And a step of 0.3?
''')
put(core, "06-from-nl-course-checkpoin", r'''
from nl_course.files import asset
from nl_course.tasks.text import encode, library
from nl_course.training.checkpoint import load_model

book = next(b for b in library("prose").held_out if b.name == "sympy.sets.sets")
text = encode(book.text)[: 48 * 128 + 1]
pages = list(zip(text[:-1].split(128), text[1:].split(128)))
curves = {}
for step in (0, 0.05, 0.3):
    model = load_model(asset("checkpoints/attention-micro.safetensors"))
    curves[step] = read_and_learn(model, pages, step)

frozen, small, large = (curve[24:].mean() for curve in curves.values())
print(f"frozen {frozen:.2f}, with a step of 0.05 {small:.2f} nats per byte: {1 - small / frozen:.0%} lower")
print("with a step of 0.3 it is worse than frozen by 0.3 nats or more:", bool(large > frozen + 0.3))
''', tags=CHECK)
put(core, "08-from-nl-course-views-cha", r'''
from nl_course.views.kit.charts import chart

picture = chart("Mean loss of the last eight pages, for three steps: a small step lowers it from page to page; "
                "a large one throws the model far off at once.",
                x="page of 128 bytes", y="loss (nats per byte)")
for (step, curve), dash in zip(curves.items(), ("solid", "dash", "dot")):
    recent = curve.unfold(0, 8, 1).mean(dim=1)
    picture.line(range(8, 49), recent, f"step {step}", "outer" if step else "attention", dash=dash)
picture
''')
put(core, "11-so-a-model-may-well-lear", r'''
The small step lowers the loss by about a sixth. The large one throws the model so far off on the first pages that it ends worse than
frozen.

So a model can learn while it reads. But this way has three faults.

* **Every user needs a copy of the model**, because all weights change.
* **Each step costs a forward and a backward pass** through the whole model.
* **Nobody trained this model to learn.** Its weights are a good place to stand, and perhaps a bad place to start from. The step was our
  guess.

**Test-time training** (TTT) mends all three. A *small* model inside each layer learns, and the large one stays as it is. The small
model's gradient is a few matrix products. Where it starts, how far it steps and what it is asked are *trained*, through those very steps.
''')

put(core, "12-a-nested-loop-of-one-we", r'''
## One weight shows both loops

"Trained through those very steps" is the idea on which this notebook rests. Meet it in the smallest size, a memory with one weight w.

* **Inner loop.** The memory gets a pair, key k and value v. It takes one step down the gradient of (k w - v)²/2, which is k (k w - v).
  Call the weight after the step w₁.
* **Outer loop.** The memory is asked with a query q and should answer y. The outer loss is (q w₁ - y)²/2.

How should the outer loop change the *start* w? It needs the slope of the outer loss along w. The start acts in two ways: directly, and
through the inner gradient, which depends on it too. Collect both: w₁ = (1 - step · k²) w + step · k v. So the slope along w has the
factor **1 - step · k²**, the share of the old weight that the write leaves.
''')
put(core, "13-k-v-q-y-step-1-2-0-8-1-0", r'''
k, v, q, y = 1.2, 0.8, 1.0, 1.5


def outer_loss(w, step):
    written = w - step * k * (k * w - v)  # the inner step
    return (q * written - y) ** 2 / 2


written = 0.3 - 0.4 * k * (k * 0.3 - v)  # start 0.3, step 0.4
by_hand = (q * written - y) * q * (1 - 0.4 * k**2)
difference = (outer_loss(0.3 + 1e-4, 0.4) - outer_loss(0.3 - 1e-4, 0.4)) / 2e-4
print(f"slope along the start, by hand {by_hand:.4f}, as a finite difference {difference:.4f}")
''', tags=CHECK)
put(core, "14-the-factor-1-step-k-is-t", r'''
Now PyTorch. `create_graph=True` keeps the graph *of the inner gradient*, so that it can be differentiated once more. If you forget it, or
write `.detach()`, the inner gradient counts as a constant: it is *cut* out of the graph.

**Predict first.** What does the cut do to the slope: nothing much, make it too large, or turn its sign? Try a step of 0.4, and one four
times as large.
''')
put(core, "15-def-outer-gradient-creat", r'''
def outer_gradient(step, create_graph):
    w = torch.tensor(0.3, requires_grad=True)
    (inner,) = torch.autograd.grad((k * w - v) ** 2 / 2, w, create_graph=create_graph)
    (outer,) = torch.autograd.grad((q * (w - step * inner) - y) ** 2 / 2, w)
    return outer.item()


for step in (0.4, 1.6):
    exact, cut = (outer_gradient(step, create_graph) for create_graph in (True, False))
    print(f"step {step}: exact {exact:.4f}, cut {cut:.4f}; 1 - step k² = {1 - step * k**2:.3f}")
''', tags=CHECK)
put(core, "16-exact-agrees-with-the-ju", r'''
The exact slope at a step of 0.4 is the one found by hand. The cut one is more than twice as large, and PyTorch gives no warning. At a
step of 1.6 the cut slope even has the other sign, so whoever trains along it walks **uphill**.

The last column says more. At a step of 1.6 the factor is below -1: every further write along this key makes the error larger. A write is
safe while **step · k² < 2**, and for a matrix while step · |k|² < 2. Beyond, an inner loop explodes.
[04b](04b_inside_test_time_training.ipynb) makes one explode and tries three cures.
''')
put(core, "17-exercise-4-1-the-gradie", r'''
### Exercise 4.1: the gradient through a write

The key k and the value v appear *only* inside the write. **Predict first.** With the inner gradient cut, what is their slope? Then find
the exact ones.

Write `through_the_write(w, k, v, q, y, step)` for a memory of **one weight**. All arguments are plain numbers.

* The write: one step of size `step` on the inner loss (k w - v)² / 2.
* The outer loss: (q w' - y)² / 2, where w' is the weight after the write.
* The result: four numbers, the outer loss and its derivatives with respect to w, to k and to v.

By hand, with the chain rule: each of the three derivatives is one line.
''')
put(core, "18-def-through-the-write-w")
put(core, "19-what-it-means-there-are", r'''
**What it means.** There are two loops and one chain rule. The inner loop uses k and v, and changes w. The outer loop changes k, v, the
step and the start of w. It reaches k, v and the step only by differentiating the write. Cut the inner gradient out of the graph, and k
and v get a slope of exactly zero.
''')

put(core, "why-not-a-matrix", r'''
## A matrix cannot hold every lesson; a network can

Which small model should learn? Notebook 03 used a matrix. A matrix has a limit: its answer is linear in the key. If it answers v to k, it
answers -v to -k, whatever it was told.

Here is a lesson beyond that limit. A key is two numbers, each 1 or -1. The value is 1 if they are equal, and -1 if not. There are only
four such pairs. We write 400 of them, drawn at random, into a matrix and into a small network. The write is the same for both: one
gradient step, and autograd finds the gradient.
''', "markdown")
put(core, "write-into-any-model", r'''
def answer_of_matrix(k, W):
    return k @ W["W1"]  # (2,) -> (1,)


def answer_of_network(k, W):
    return torch.nn.functional.gelu(k @ W["W1"] + W["b1"]) @ W["W2"]  # (2,) -> (16,) -> (1,)


def errors_while_writing(answer, W, keys, step=0.1):
    errors = []
    for k in keys:
        loss = (answer(k, W) - k[0] * k[1]).square().sum() / 2
        errors.append(2 * loss.item())  # before the write
        gradients = torch.autograd.grad(loss, list(W.values()))
        W = {name: W[name] - step * gradient for name, gradient in zip(W, gradients)}
    return torch.tensor(errors)
''', "code")
put(core, "write-into-any-model-asked", r'''
**Predict first.** A memory that always answers 0 has a mean squared error of 1. What error does each of the two have on the first
hundred writes, and on the last hundred?
''', "markdown")
put(core, "write-into-any-model-run", r'''
keys = 2.0 * torch.randint(0, 2, (400, 2), generator=torch.Generator().manual_seed(0)) - 1
random = torch.Generator().manual_seed(0)
matrix = {"W1": torch.zeros(2, 1)}
network = {"W1": torch.randn(2, 16, generator=random), "b1": torch.zeros(16)}
network["W2"] = torch.randn(16, 1, generator=random) / 4
for name, answer, start in (("matrix", answer_of_matrix, matrix), ("network", answer_of_network, network)):
    start = {part: weight.requires_grad_() for part, weight in start.items()}
    errors = errors_while_writing(answer, start, keys)
    print(f"{name:8} first hundred {errors[:100].mean():.2f}, last hundred {errors[-100:].mean():.2f}")
''', "code", CHECK)
put(core, "write-into-any-model-said", r'''
The matrix stays worse than always answering 0. The network learns all four pairs.

So the memory can be *any* model, and nobody has to derive a rule of writing for it: the write is one step down its gradient. That is the
step from 03 to this notebook. The example is a toy, made to show the limit. It does not show that text needs more than a matrix.
''', "markdown")

put(core, "20-the-hidden-state-is-a-m", r'''
## The hidden state is a model, and a write is one training step

Here is the layer, **TTT-Linear** (Sun et al. 2024, arXiv 2407.04620, section 2). Each token gives a key, a value and a query, as in
attention. The hidden state is a small model f with weights W. What attention keeps as a list, and 03 as a matrix, is here *a model that
is trained while it reads*.

* **Write**: one gradient step on the loss ℓ = |f(k; W) - v|²/2. The pair (k, v) is a training example that the layer makes for itself:
  *from this view of the token, predict that one.*
* **Read**: z = f(q; W), with the weights after the step.

In the paper f(x) = x + LN(x W + b): a linear map, a layer norm (LN), and a residual path around both. The norm keeps steps from
exploding, since it divides the gradient by the size of what it normalizes. In **TTT-MLP**, the paper's second layer, f has two linear
layers instead of one.
''')
put(core, "ttt-linear-drawn", r'''
Two parts differ from 03's delta rule: the memory, and the write (4). The write names no formula any more. It is one step down the
gradient, whatever the model is.

![The delta rule's machine with memory and write drawn thick. The memory is a model, x plus the layer norm of x W, which predicts f of k. The write is a training step: W less the step η times the gradient of half the squared error. The next token begins with W and a sum of gradients.](../assets/diagrams/memory-ttt-linear.svg)
''')
put(core, "21-def-inner-model-x-w-z-x", r'''
def inner_model(x, W):
    z = x @ W["W1"] + W["b1"][0]  # (f,) @ (f, f) -> (f,)
    return x + torch.nn.functional.layer_norm(z, z.shape, eps=1e-6)
''')
put(core, "22-and-now-the-whole-inner", r'''
Now the whole inner loop, token by token. Two details in it come from the paper's section 2.4, and the next section explains them. The
gradients of a **mini-batch** of `size` tokens are all taken at the weights with which it began, the *anchor*. And the weights move by the
*running mean* of these gradients.
''')
put(core, "23-def-read-by-training-k-v", r'''
def read_by_training(k, v, q, rate, start, size=4):
    answers, W = [], start
    for t in range(len(k)):
        if t % size == 0:
            anchor, gathered = W, {name: 0.0 for name in W}
        loss = (inner_model(k[t], anchor) - v[t]).square().sum() / 2
        gradient = torch.autograd.grad(loss, list(anchor.values()), create_graph=True)
        gathered = {name: gathered[name] + rate[t] * g for name, g in zip(W, gradient)}
        W = {name: anchor[name] - gathered[name] / (t % size + 1) for name in W}
        answers.append(inner_model(q[t], W))
    return torch.stack(answers)
''')
put(core, "24-that-is-all-of-it-a-doze", r'''
That is all: a dozen lines, and a training loop like any you know. Is it what the course's layer computes? We take the layer's own
projections and its learned start, and compare. Its rate is a sigmoid of the token, divided by the width of a head.
''')
put(core, "25-from-nl-course-memories", r'''
from nl_course.memories import build_memory

layer = build_memory(
    "ttt-linear", 8, 1, backbone="transformer", rope_theta=None, mini_batch=4
).double()
x = torch.randn(1, 10, 8, dtype=torch.float64)
k, v, q = (part(x)[0] for part in (layer.key, layer.value, layer.query))  # (10, 8) each
rate = layer.rate(x)[0, :, 0].sigmoid() / 8
start = {name: weight[0] for name, weight in layer.start.items()}
z = read_by_training(k, v, q, rate, start)
ours, _ = layer(x)
same = torch.allclose(layer.output(layer.post_norm(z)), ours[0], atol=1e-12)
print("a dozen lines are the course's layer, to 1e-12:", same)
''')
put(core, "26-ten-tokens-mini-batches", r'''
**Does the inner loop run in training too, or only at test time?** Always. There is no other way to compute this layer's output, because
reading *is* taking these steps. Training runs the same loop over every training text, always from the same learned start, and then goes
backward through it. So the projections are trained *for* a layer that learns.

| | when | what changes | lasts |
|---|---|---|---|
| inner loop | at every token, in training and in use | W, from the start W₀ on | until the text ends |
| outer loop | at every training step | W₀, projections, rates, everything else | for good |

The same table as a picture. Follow the gradient from the outer loss back through the writes. It reaches the start, and at each write the
projections, steps and gates. A cut keeps it from everything to the left.

![A dashed frame, one outer step, holds a row: start W, four writes under the words The code is 7214, and an outer loss. A line for the gradient walks back from the loss under the writes, with arrows up into each write and down to what all writes share, projections, steps and gates. A vertical cut stands after the second write; left of it the line is dashed, as far as the start. Below, the outer loop: a row of such steps.](../assets/diagrams/two-loops.svg)
''')
put(core, "stage-inner-loop", r'''
### Watch the writes

The [stage of 00](00_start_here.ipynb#Watch-both-students-read) runs live here with a smaller memory, 03's delta rule with gates
([Gated DeltaNet](03_memory_that_learns.ipynb#The-layers-that-people-train)): four matrices of 16 by 16. Its write is one gradient step on
|k W - v|²/2, and each token chooses its own step. The outer loop has trained it for 1,000 steps.

Press ▶▏ to follow one write: key and value (1), the prediction (2), the error (3). Then step times key times error flies into W (4).

**Predict first.** The line *step* shows how far each letter's write has gone so far. How large are the steps at the five digits of the
fact, compared with all other letters: smaller, the same, or several times as large? And in the same model *before* training (0 outer
steps)?
''')
put(core, "stage-inner-loop-view", r'''
from nl_course.views.stage import Stage

stage = Stage("gated-delta")
stage
''')
put(core, "stage-inner-loop-still")
put(core, "stage-inner-loop-steps", r'''
import base64

import numpy as np


def unpacked(stored):
    return np.frombuffer(base64.b64decode(stored["f32"]), dtype="<f4")


checkpoints = stage.screen.take["memories"][0]["checkpoints"]
for checkpoint in (checkpoints[0], checkpoints[-1]):
    steps = [unpacked(head["step"]) for head in checkpoint["heads"]]  # one per byte, for each head
    times = [each[82:87].mean() / np.delete(each, range(82, 87)).mean() for each in steps]
    print(f"{checkpoint['step']:>5,} outer steps: the digits' step, in times of all others, per head:",
          *(f"{t:.0f}" for t in times))
''', "code", CHECK)
put(core, "stage-inner-loop-said", r'''
**The inner loss of a byte falls with its own write**, before training as well. That is what a gradient step is for. **Where the model
takes a large step is learned in the outer loop.** Before training the steps cannot tell the fact from the ferry. Afterwards every head
steps at least twice as far at the digits. Put in your own text and fact, and see whether the trained steps find it.
''')

put(core, "41-online-mini-batch-batch", r'''
## Mini-batches let the writes run at the same time

What is wrong with one step per token? Speed. Token t's gradient needs the weights after token t - 1, so the writes form a chain, and a
machine made for large matrix products waits at every link.

The cure is known from ordinary training. Take all gradients of a **mini-batch** at one place, the anchor, and none has to wait for
another. The paper takes 16 tokens everywhere. The price: all but the first gradient of a mini-batch are a little stale. Another size
gives other numbers, so the size is a choice of *algorithm*; [04b](04b_inside_test_time_training.ipynb) measures five sizes.

How far should sixteen gradients from one anchor move the weights? The paper's equation 6 takes their *sum*. In the authors' code the sum
is multiplied by a learned factor that starts as 1/i at the i-th token: a running *mean*. The paper does not mention it, and the difference
is large. Sixteen equal tokens move the memory once, or sixteen times as far.
''')
put(core, "44-exercise-4-2-a-sum-or-a", r'''
### Exercise 4.2: a sum or a running mean

Write `running_mean_weights(weights, gradients, step)`: the weights at every token of a mini-batch, moved by `step` times the mean of the
gradients so far. All gradients were taken at the same weights.

* `weights` (f, m) at the mini-batch's start; `gradients` (b, f, m), one per token; `step` a number.
* The result is (b, f, m). No loop.
''')
put(core, "45-def-running-mean-weights")
put(core, "51-the-same-numbers-with-m", r'''
### The dual form: the same numbers with matrix products

With one anchor, token j's gradient is an outer product of its key and its error, $k_j^\top e_j$. With rates $\lambda_j$ and factors
$c_i$, the answer of token i then needs no weight matrix of its own:

$$ q_i W_i = q_i \Big(W - c_i \sum_{j \le i} \lambda_j\, k_j^\top e_j\Big) = q_i W - \sum_{j \le i} (c_i \lambda_j)\,(q_i \cdot k_j)\; e_j $$

The product $q_i \cdot k_j$ is one number per pair of tokens. For 16 tokens that is a 16 × 16 table whose upper half is empty. It looks
like attention over the mini-batch, with errors in the place of values. This is the *[dual form](glossary.md#dual-form)*. Build it for a
linear memory.
''')
put(core, "52-exercise-4-4-a-mini-bat", r'''
### Exercise 4.4: a mini-batch of writes with matmuls only

A linear memory reads a mini-batch of b tokens. Token i's weights are

`W_i = weights - factor[i] * (rate[0] * outer(keys[0], errors[0]) + ... + rate[i] * outer(keys[i], errors[i]))`

and its answer is `queries[i] @ W_i`. Write `read_mini_batch(weights, queries, keys, errors, rate, factor)`.

* `weights` (f, m); `queries`, `keys` (b, f); `errors` (b, m); `rate`, `factor` (b,).
* The result: the answers (b, m), and the weights after the last token (f, m).

No loop, and no (f, m) matrix per token: a (b, b) table of products is all that is needed.
''')
put(core, "53-def-read-mini-batch-weig")
put(core, "54-the-course-s-layer-has-b", r'''
The course's layer has both forms. `path="reference"` differentiates with autograd, token by token. `path="chunked"` is the dual form,
with layer norm and biases. **Predict first.** How far apart are their outputs, and the gradients of everything that learns, in double
precision?
''')
put(core, "55-paths-for-path-in-refere", r'''
paths = {}
for path in ("reference", "chunked"):
    torch.manual_seed(3)
    layer = build_memory("ttt-linear", 32, 4, path=path).double()
    x = torch.randn(2, 40, 32, dtype=torch.float64)
    output, _ = layer(x)
    gradients = torch.autograd.grad(output.square().mean(), list(layer.parameters()))
    paths[path] = [output, *gradients]
apart = max((a - b).abs().max().item() for a, b in zip(*paths.values()))
print("outputs and", len(gradients), "gradients are the same to 1e-10:", apart < 1e-10)
''')
put(core, "57-from-nl-course-benches-m", r'''
from nl_course.benches.measure import forward_backward, in_turn, ratio

x = torch.randn(1, 256, 64)
layers = {path: build_memory("ttt-linear", 64, 4, path=path) for path in ("reference", "chunked")}
times = in_turn({path: forward_backward(layer, x) for path, layer in layers.items()}, rounds=3)
print(f"the dual form is {ratio(times, 'reference', 'chunked'):.0f} times as fast here, forward and backward")
''')
put(core, "58-what-it-means-the-mini", r'''
**What it means.** The mini-batch is a choice of algorithm: another size gives other numbers. The dual form is a choice of arithmetic: the
same numbers, sooner. Confusion about such layers often comes from mixing the two.
''')

put(core, "64-two-loops-now-the-quest", r'''
## Keys and values learn only through the writes

This is the question that users of such layers ask most. *The inner loop uses k and v but changes only W. The outer loop changes the
projections that make q, k and v. How do k and v learn at all?*

An outer step runs the whole inner loop and computes the model's loss. Then it goes backward through the reads and **through the writes**.
A write is a gradient, so this takes second derivatives. It is the only path to what makes k and v.

Three outer gradients can be taken. *Exact* goes through the writes. *[First-order](glossary.md#first-order)* treats each inner gradient as
a constant. *Stopped* treats the whole write as a constant. The first two are the exact and the cut slope of the one-weight loop.
''')
put(core, "67-as-it-opens-one-write-wi", r'''
### The same in the real layer, part by part

Take a TTT-Linear layer with three separate projections, three mini-batches of tokens, and a target that the output should have. Does
each part's exact gradient agree with a finite difference? And how long are the other two gradients, compared with the exact one?
''')
put(core, "68-x-y-torch-randn-2-2-12-8", r'''
x, y = torch.randn(2, 2, 12, 8, dtype=torch.float64)


def outer_layer(stop):
    torch.manual_seed(1)
    layer = build_memory("ttt-linear", 8, 2, backbone="transformer", mini_batch=4, stop_gradient=stop)
    torch.nn.init.normal_(layer.start["W1"], std=0.5)
    return layer.double()


def outer_gradients(layer):
    loss, parts = (layer(x)[0] - y).square().mean(), dict(layer.named_parameters())
    found = torch.autograd.grad(loss, list(parts.values()), allow_unused=True)
    return {name: torch.zeros(1) if g is None else g for name, g in zip(parts, found)}
''')
put(core, "69-the-judge-moves-one-part", r'''
The finite difference moves one part along a random direction, a little up and a little down:
''')
put(core, "70-def-judged-layer-part-di", r'''
def slope_along(layer, part, direction, by=1e-5):
    losses = []
    with torch.no_grad():
        for sign in (1, -2, 1):  # up, down, and back to where it was
            part += sign * by * direction
            losses.append((layer(x)[0] - y).square().mean().item())
    return (losses[0] - losses[1]) / (2 * by)
''')
put(core, "71-predict-first-for-each", r'''
**Predict first**, for the projections of query, key and value, the rate, and the start: which of them learn nothing when the write is
stopped? Which do not notice?
''')
put(core, "72-stops-none-first-order-w", r'''
stops = ("none", "first-order", "write")
exact, first, stopped = (outer_gradients(outer_layer(stop)) for stop in stops)
layer = outer_layer("none")
print(f"{'part':18}  exact = difference  first-order  stopped  (lengths, exact is 1)")
for name, part in layer.named_parameters():
    direction = torch.randn_like(part)
    along, right = (exact[name] * direction).sum().item(), slope_along(layer, part, direction)
    agree = str(abs(along - right) < 1e-5 * max(1, abs(right)))
    shares = [(g[name].norm() / exact[name].norm()).item() for g in (first, stopped)]
    print(f"{name:18}  {agree:18}  {shares[0]:11.2f}  {shares[1]:7.2f}")
''')
put(core, "73-read-the-two-columns-of", r'''
**The projections of keys and values learn only through the write.** With the inner gradient cut they get exactly nothing.

| who | learns what | through which path | with the write stopped |
|---|---|---|---|
| projections of key and value | which lesson each token sets for the memory | only through the inner gradient (second order) | exactly zero |
| rate, position factors | how much each lesson counts | through the write (first order) | exactly zero |
| start W₀, b₀; gain and shift of the inner norm | where learning begins; what the norm makes of it | the read, and every write after it | another gradient |
| projection of the query | what to ask | the read | all of it |
| output, post-norm, everything around | what to do with the answer | around the memory | all of it |
| **W** | this text | the inner loop alone, while reading | not touched by the outer loop |

**What it means.** *A write is one step of SGD; training shapes it through that very step.* The lesson (k, v), its weight (the rate) and
the start all learn through the inner step. Without this path two of the three projections would stay as random as they began.
''')
put(core, "stage-two-loops", r'''
### In a trained memory the gradient comes from the fact

The stage once more, recorded with the Titans memory of 00, and with its last outer step unfolded. The strip holds every write of the text.
The loss at its right end is that of the answer. Its gradient walks back through the writes. The bars show how much of it reaches each
byte's value (up) and key (down).

**Predict first.** Move the scissors: everything before the cut then counts as a constant. Cut just *before* the fact. Does the projection
of values lose most of its gradient, or little? And four bytes *after* the fact? Then choose *first order* and *stopped*: what still
learns?
''')
put(core, "stage-two-loops-view")
put(core, "stage-two-loops-still", cells["stage-two-loops-still"]["source"] and "".join(cells["stage-two-loops-still"]["source"]).split("\n\nA cut just before")[0])
put(core, "stage-two-loops-cut", r'''
import json

recorded = json.loads(asset("stage.json").read_text("utf-8"))
outer_step = recorded["memories"][0]["checkpoints"][-1]["outer"]["exact"]
left = unpacked(outer_step["value_weights"])  # gradient at the projection of values, by place of the cut
first, last = recorded["fact"]["first"], recorded["fact"]["last"]
for name, place in (("just before the fact", first), ("four bytes after the fact", last + 4)):
    print(f"cut {name}: {left[place] / left[0]:.2f} of the gradient is left")
''', "code", CHECK)
put(core, "stage-two-loops-said", r'''
So nearly all that this text teaches about values comes through the writes of the fact and of the few bytes behind it. With *first order*
the projections of keys and values learn nothing, while gates and start still do. With *stopped* only the start does. Move the dial to 0
outer steps and cut again: before training the gradient does not single out the fact.
''', "markdown")

put(core, "83-a-language-model-that-l", r'''
## Writing helps a language model, and its state stays small

Now two language models of the course, with 468 thousand weights each. One attends, the other has TTT-Linear in every layer. Both read the
same bytes in the same order for 1,600 steps, in contexts of 256 bytes. As in the paper, each TTT block also has a short convolution,
which lets a token's key contain the few tokens before it.

### The writes are worth a fifth of a nat per byte

One switch tells: the same trained TTT model, with the base of its rates set to 0. It reads and never writes.

**Predict first.** How does the loss on held-out books differ at the first 16 bytes, and how later?
''')
put(core, "39-from-copy-import-deepcop", r'''
from copy import deepcopy
from dataclasses import replace

from nl_course.training import evaluate_windows, token_losses

learning = load_model(asset("checkpoints/ttt-linear-micro.safetensors"))
silent = deepcopy(learning)
for block in silent.layers:
    block.memory.config = replace(block.memory.config, base_rate=0.0)

held_out = library("prose").stream("held_out").long()
windows = torch.stack([held_out[s : s + 257] for s in evaluate_windows(held_out, 256, 32)])  # (32, 257)
with torch.no_grad():
    losses = [token_losses(each, windows[:, :-1], windows[:, 1:]).mean(dim=0) for each in (learning, silent)]
for first, last in ((0, 16), (16, 64), (64, 256)):
    writes, never = (loss[first:last].mean() for loss in losses)
    print(f"bytes {first + 1:>2} to {last:>3}: loss {writes:.2f} with writes, {never:.2f} without")
''')
put(core, "40-what-it-means-the-hidde", r'''
After the first few bytes the writes lower the loss by 0.20 nats per byte. They are worth something to *this* model, which was trained to
use them. A model trained without writes from the beginning could do better than our silent one; we did not train it. And a lower loss is
not yet *remembering*: notebook 08 takes that up.

### Attention meets a cliff, and the memory does not

**Predict first.** Both models are now given 1,024 bytes. What does the loss of each do beyond 256? A third row of points is made here and
now: the same attention model, but each byte may look back over 256 bytes only.
''')
put(core, "86-twin-load-model-asset-ch", r'''
import json

comparison = json.loads(asset("runs/inner-loop.json").read_text("utf-8"))
attends, learns = comparison["models"]["attention"], comparison["models"]["ttt-linear"]
print(f"weights: attention {attends['parameters']:,}, TTT-Linear {learns['parameters']:,}")

windowed_model = load_model(asset("checkpoints/attention-micro-twin.safetensors"))
for block in windowed_model.layers:
    block.memory.config = replace(block.memory.config, window=256)
bins = [(b["from"], b["to"]) for b in learns["loss"]]
corpora = comparison["about"]["config"]["corpora"]
streams = [library(corpus).stream("held_out").long() for corpus in corpora]
long = torch.stack([s[i : i + 1025] for s in streams for i in evaluate_windows(s, 1024, 8)])
with torch.no_grad():
    parts = [token_losses(windowed_model, part[:, :-1], part[:, 1:]) for part in long.split(8)]
windowed = torch.cat(parts).mean(dim=0)
''', tags=CHECK)
put(core, "87-middles-first-last-2-for", r'''
middles = [(first + last) / 2 for first, last in bins]
picture = chart(
    "Loss by place in the context. Both models improve up to 256 bytes. Beyond, attention's loss climbs; "
    "the memory's stays flat.",
    x="byte of the context (trained up to 256)",
    y="loss (nats per byte)",
    log="x",
)
for name, rows, memory in (("attention", attends, "attention"), ("TTT-Linear", learns, "ttt-linear")):
    rows = rows["loss"]
    spread = dict(type="data", symmetric=False, array=[r["high"] - r["mean"] for r in rows],
                  arrayminus=[r["mean"] - r["low"] for r in rows])
    picture.points(middles, [r["mean"] for r in rows], f"{name} (recorded)", memory, error_y=spread)
beyond = [windowed[first:last].mean() for first, last in bins if first >= 256]
picture.points(middles[-len(beyond):], beyond, "attention, window of 256 (live)", "window")
picture
''')
put(core, "89-differences-d-from-d-to", r'''
for row in comparison["ttt_less_attention"]["all"]:
    if row["from"] in (0, 64, 192, 512):
        print(f"bytes {row['from'] + 1:>3} to {row['to']:>3}: TTT's loss less attention's {row['mean']:+.2f}, "
              f"95 % interval {row['low']:+.2f} to {row['high']:+.2f}")
inside = [row for row in comparison["ttt_less_attention"]["all"] if row["to"] <= 256]
print("up to 256 bytes all intervals lie below 0:", all(row["high"] < 0 for row in inside))
print("beyond 512 a window of 256 keeps attention's loss below 1.7:", bool(windowed[512:].mean() < 1.7))
''')
put(core, "90-careful-with-what-this-s", r'''
The bars in the chart are [intervals](glossary.md#interval) over the windows of held-out text, and so are the ranges above.

* **Within 256 bytes** TTT's loss is about 0.10 nats per byte lower. That is a clear lead, but not all of it need be the inner loop's: this
  attention model has no short convolution. A fair third model, attention with that convolution, we have not trained.
* **Beyond 256 bytes** attention's loss is higher by 1.5 nats. The reason is plain: it meets distances that it never saw in training. A
  window of 256 mends it at once. So this does *not* show that attention cannot read long texts. The memory has no such cliff, but it does
  not improve with more context either.
* This is one seed, half a million weights, and 3.3 million bytes of training. The paper's comparisons begin at 125 million weights.

### The state keeps one size, and a byte costs the same

**Predict first.** From which number of bytes on does the cache outweigh the memory?
''')
put(core, "94-measured-all-reader-stat", r'''
attending = load_model(asset("checkpoints/attention-micro-twin.safetensors"))
per_byte, fixed = attending.state_bytes(1), learning.state_bytes(1)
print(f"the cache grows by {per_byte:,} bytes per byte read; the memory keeps {fixed:,}")
print(f"they are equal after {fixed / per_byte:.1f} bytes read")
print(f"at 16,384 bytes read the cache is {attending.state_bytes(16_384) / fixed:.0f} times as large")
measured = [each.state_bytes(row["tokens"]) == row["bytes"]
            for each, rows in ((attending, attends), (learning, learns)) for row in rows["state"]]
print("the recorded run measured these sizes at 256 to 16,384 bytes read:", all(measured))
''')
put(core, "95-after-thirty-bytes-of-te", r'''
After thirty bytes of text the cache is larger.

Time is another matter. At short contexts attention is *faster* per byte, because a step of this memory is many small operations, and it
writes. The memory wins only where the cache has become large. [04b](04b_inside_test_time_training.ipynb) times both on your machine. A
constant is not a small number; it is one that does not grow.
''')

put(core, "99-the-state-in-your-hands", r'''
## You decide what happens to a state

*Are the [fast weights](glossary.md#fast-weights) updated at inference? Are they carried over to the next sample?* They are updated.
Whether they are carried over is **your** decision, because the state is a value that the model returns and takes.

Take 32 places in the held-out books. At each the model reads 512 bytes, and we ask it about the next 64.

**Predict first.** There are three ways to go on: with the state *kept*; *reset* to the learned start; or with *another's* state, from the
next of the 32 places. Which is best, which worst?
''')
put(core, "102-others-kept-rows-range-1", r'''
places = torch.stack([held_out[s : s + 577] for s in evaluate_windows(held_out, 576, 32)])  # (32, 577)


def loss_of_what_follows(state):
    with torch.no_grad():
        logits, _ = learning(places[:, 512:-1], state)
    return cross_entropy(logits.flatten(0, 1), places[:, 513:].flatten()).item()


with torch.no_grad():
    _, kept = learning(places[:, :512])
others = kept.rows([*range(1, 32), 0])
for name, state in (("kept", kept), ("reset", None), ("another's", others)):
    print(f"{name:10} {loss_of_what_follows(state):.2f} nats per byte")
print(f"bytes per user: {kept.nbytes // 32:,}, whatever was read")
''')
put(core, "103-keeping-helps-since-what", r'''
Keeping helps, because what was learned is about *this* text. Another text's state is worse than none, because that memory has adapted to
the wrong book. So reset between unrelated texts. Nothing that was learned in one text outlives it unless you keep it.

**What it means.** You can *keep, reset, save, load and branch* what a model has learned while reading, and its weights stay untouched.
The state is small, belongs to one user, and can be thrown away. How much it *holds* is measured in 08 and 09.
''')
fam = "".join(cells["105-what-it-means-keep-rese"]["source"])
i = fam.index("<!-- family 04 -->")
j = fam.index("And the table of rules")
k_ = fam.index("<!-- rules 04 -->")
put(core, "105-what-it-means-keep-rese", r'''
## Two rows join the family

Compared with 03's family, the thing that is written into is new: a small model. The chunk is new as well. In 03 it changed only the
speed. Here it is part of the rule, because all gradients of a mini-batch are taken at one place.

''' + fam[i:j] + "The table of rules, with what this notebook built:\n\n" + fam[k_:])
close = "".join(cells["106-before-you-go-on-what-y"]["source"])
q0 = close.index("1. The weights of a TTT layer"); q1 = close.index("**Further reading.**")
put(core, "106-before-you-go-on-what-y", r'''
## What you can now say

*A write is one step of SGD; training shapes it through that very step.* You measured it. Exact gradients agreed with finite differences at
every part that learns. With the inner gradient cut, those of the key and value projections were exactly zero, and a cut gradient could
point uphill. In a trained model the writes lowered the loss by a fifth of a nat per byte, in a state that never grew.

**What opens up.** This write has a step and nothing else: each one acts once, and nothing decides what to forget. Notebook 05 gives it
momentum, and a memory that lets go.

**Three questions to discuss.**

''' + close[q0:q1] + r'''**Further reading.** Sun et al. 2024, *Learning to (learn at test time)* (arXiv 2407.04620): equations 1 to 5 for update, loss and read;
section 2.4 and equation 6 for mini-batches; section 2.5 for the dual form; section 2.7 for the learned start and rate; Table 1 for what
each is worth. Finn et al. 2017, *Model-agnostic meta-learning* (arXiv 1703.03400), section 5.2: what first order leaves out. Krause et al.
2018, *Dynamic evaluation* (arXiv 1709.07432), section 3. Schlag et al. 2021, *Linear transformers are secretly fast weight programmers*
(arXiv 2102.11174), section 4: the delta rule of 03.

**Where the paper is silent, and what we chose.** The paper's equation 6 sums gradients. Its code multiplies the sum by a learned 1/i and
the rate by 1/f, and so do we (`position_factor="sum"` is the paper's form). The code's inner model has a bias and the paper's formula has
none; we have it. The loss is halved, as in the code. Neither says how to cut a text inside a mini-batch; we carry the gathered sum. Neither
says what to do between texts; we start each from W₀.
''')

# =================================================================== further
F = further
put(F, "inside-ttt-opening", r'''
# 04b · Inside test-time training

**Goals.** Look at single writes of a trained TTT-Linear model. Measure what its learned start and its mini-batch are worth. Find the
gradient of its layer norm by hand. Say exactly what its state holds, cut a text anywhere, and save it. Make an inner loop explode, and
cure it. Time one more byte.

**Minutes.** About 60, exercises included. The machine needs about one.

**What you need to know.** Notebook 04. Nothing in later notebooks depends on this page.
''', "markdown")
put(F, "inside-ttt-imports", r'''
import torch

torch.manual_seed(0)
from nl_course.exercises import check, hint, solution
''', "code")
put(F, "27-under-the-microscope-th", r'''
## Each write is small, and their sum counts

The view shows a trained model: four TTT-Linear layers, half a million weights, 1,600 recorded steps on the course's library. The upper
panel shows one head's inner loss at every byte of a text: before its write, after it, and what the learned start would lose if nothing
were ever written. The lower panel shows the loss that the *model* has on the next byte. *More controls* shows the byte that you choose:
its inner question in numbers, and what its write changed in the weights.

**Predict first**, in the view. Then go through the text with *Step*, and put in your own.
''')
put(F, "28-from-nl-course-views-inn")
put(F, "29-details-summary-the-vie")
put(F, "30-three-things-to-look-for", r'''
Look for three things.

1. **Each write lowers the loss on its own pair a little.** What counts is the sum: compare the line *before the write* with the thin line
   of the untouched start.
2. **The change has stripes** (tick *The chosen byte's numbers and its write*). One gradient is an outer product, key times error, so its
   rows are multiples of one another. Under a running mean the write also takes back a part of the earlier ones.
3. **Inner loss is not the model's loss.** The inner loop never sees the next byte. It only learns to predict v from k. That this helps the
   model is the outer loop's doing.
''')
put(F, "31-a-learned-start-under-m", r'''
## A learned start makes the inner loop learn fast

*More controls* lets all inner models start from zero, or from small random numbers. Here the three starts are compared on eight pieces of
held-out books. `variant` makes a copy of the model that starts elsewhere. A trace records the inner loss at every byte.
''')
put(F, "32-from-nl-course-training", r'''
from nl_course.files import asset
from nl_course.tasks.text import library
from nl_course.training import evaluate_windows, token_losses
from nl_course.training.checkpoint import load_model

model = load_model(asset("checkpoints/ttt-linear-micro.safetensors"))
held_out = library("prose").stream("held_out").long()
windows = torch.stack([held_out[s : s + 257] for s in evaluate_windows(held_out, 256, 8)])  # (8, 257)
''')
put(F, "33-the-function-variant-mak", r'''
**Predict first.** Which start has the lowest inner loss after 128 bytes, and which the lowest loss on the next byte?
''')
put(F, "34-from-nl-course-memories", r'''
from torch.nn.functional import cross_entropy

from nl_course.memories import Trace
from nl_course.views.inner_microscope import variant

inner, outer = {}, {}
for start in ("learned", "random", "zero"):
    trace = Trace(only=["layers.2.loss_before"])
    with torch.no_grad():
        logits, _ = variant(model, start, mini_batch=16)(windows[:, :-1], None, trace)
    inner[start] = trace["layers.2.loss_before"].mean(dim=(0, 2))  # (256,)
    outer[start] = cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).item()
''')
put(F, "35-picture-chart-the-inner", r'''
from nl_course.views.kit.charts import chart

picture = chart(
    "The inner loss falls fast from a learned start, slowly from random, hardly from zero.",
    x="byte of the text",
    y="inner loss (layer 3)",
)
for (start, losses), dash in zip(inner.items(), ("solid", "dash", "dot")):
    means = losses.view(-1, 8).mean(dim=1)
    picture.line(range(8, 257, 8), means, f"{start} start", "ttt-linear", dash=dash)
picture
''')
put(F, "36-all-three-begin-about-al", r'''
All three begin alike. At the first bytes the zero start is not even worse: it says f(k) = k, a decent guess. They differ in what they can
*become*.
''')
put(F, "37-late-start-losses-128-me", r'''
for start in inner:
    print(f"{start:8} inner loss of the second half {inner[start][128:].mean():.1f}, "
          f"the model's loss {outer[start]:.2f} nats per byte")
''')
put(F, "38-why-can-the-zero-start-n", r'''
Why can the zero start not learn? With W = 0 and b = 0 the layer norm divides by almost nothing, the root of 0.000001, which is a
thousandth. So the first gradient is a thousand times too large, and the weights land far out. There the norm divides by a large number,
and gradients almost vanish. The memory takes one giant step and then hardly moves.

The learned start is trained together with everything else. So its lead says what it is worth to *this* model, not what a model trained
from zero would reach. The paper reports that training was not stable without a learned start (section 2.7).
''')
put(F, "mini-batch-sizes", r'''
## The mini-batch it was trained with is the best one

The model was trained with mini-batches of 16. It can read with others. At size 1 every gradient is fresh.

**Predict first.** Will 1 be better than 16? Which size will be worst: 1, 4, 16, 64 or 256?
''', "markdown")
put(F, "42-by-size-for-size-in-1-4", r'''
by_size = {}
for size in (1, 4, 16, 64, 256):
    with torch.no_grad():
        losses = token_losses(variant(model, "learned", mini_batch=size), windows[:, :-1], windows[:, 1:])
    by_size[size] = losses.mean().item()
    print(f"mini-batches of {size:>3}: {by_size[size]:.2f} nats per byte")
print("best with the size it was trained for:", min(by_size, key=by_size.get) == 16)
print("worst of all, one step for the text:  ", max(by_size, key=by_size.get) == 256)
''')
put(F, "43-it-is-best-where-it-was", r'''
It is best where it was trained, even though 1 is the fresher gradient descent: the outer loop has fitted start, rates and projections to
mini-batches of 16. A model *trained* with 1 would be another model. The paper finds small sizes somewhat better, and much slower. Beyond
the trained size we keep the learned position factors where the place existed, and take 1/i after it.
''')
put(F, "ttt-mlp-drawn", r'''
## The inner model may be deeper

Put a network of two layers in the place of the linear one, and leave the five steps alone. That is **TTT-MLP**, the paper's second layer
(`build_memory("ttt-mlp", ...)`). It holds more and costs more.

![TTT-Linear's machine with the memory drawn thick: it is a network of two layers, drawn as two grids. Prediction, error, write and read stay as they were.](../assets/diagrams/memory-ttt-mlp.svg)
''')
put(F, "46-where-the-gradient-come", r'''
## The layer norm's gradient takes three lines

Users of the public code often ask about one formula: the gradient of |LN(z) - target|²/2 along z, without autograd. Write u for the
normalized row, u = (z - mean)/σ, and γ, β for gain and shift.

1. Along u the gradient is $g = (\gamma \odot u + \beta - \mathrm{target}) \odot \gamma$.
2. Adding a constant to z, or stretching z, leaves u as it is. So the gradient has no part along (1, …, 1), and none along u. Take both
   away: $g - \overline{g} - u\,\overline{g \odot u}$. A bar is the mean over the row.
3. u is z divided by σ, so divide by σ.
''')
put(F, "47-from-nl-course-memories")
put(F, "49-exercise-4-3-the-gradie", r'''
### Exercise 4.3: the gradient of the layer norm's loss

Now you, from those three lines. The inner loss of TTT is `|gain * u + shift - target|² / 2`. Here `u` is a row z less its mean, divided by
sigma = sqrt(variance + 1e-6). The variance has 1/f, over the f numbers of the row.

Write `norm_gradient(z, target, gain, shift)`: the gradient of that loss with respect to z.

* `z`, `target` (t, f): one row per token; `gain`, `shift` (f,).
* The result is (t, f). In closed form: no autograd, since this runs at every token of every mini-batch.
''')
put(F, "50-def-norm-gradient-z-targ")
put(F, "59-cut-anywhere-a-text-may", r'''
## The state is an anchor and a gathered sum, and does not grow

A text may be cut in the middle of a mini-batch: a prompt of 6 tokens, then the rest. What must be carried over the cut, so that nothing
changes? The weights as they stand are not enough. The next token of the same mini-batch needs the **anchor**, where its gradient is
taken. It also needs the **sum of the gradients gathered so far**, to which it adds its own.

That sum puzzles users of the public code (*why is the previous batch's gradient added in the primal form?*). It does not reduce noise. It
is a part of the state. **Predict first.** What happens if it is thrown away at the cut?
''')
put(F, "60-layer-build-memory-ttt-l", r'''
from dataclasses import replace

from nl_course.memories import build_memory

layer = build_memory("ttt-linear", 8, 1, mini_batch=4).double()
x = torch.randn(1, 11, 8, dtype=torch.float64)
whole, _ = layer(x)
_, cut = layer(x[:, :6])  # two tokens into the second mini-batch
forgetful = replace(cut, grad_accum=cut.grad_accum.map(torch.zeros_like))
print("a state holds:", ", ".join(name for name, part in cut.parts().items() if part))
for name, state in (("all of it carried:", cut), ("without the sum:  ", forgetful)):
    print(name, "same numbers", torch.allclose(layer(x[:, 6:], state)[0], whole[:, 6:], atol=1e-12))
''')
put(F, "61-so-the-state-is-the-anch", r'''
So the state is the anchor and the gathered sum, each as large as the inner model, the last inputs of the convolutions, and the position.
(The position says how far into the mini-batch one is.) For width d and head width f, a TTT-Linear layer keeps 2 (d f + d) numbers, and 6 d
for its two convolutions:
''')
put(F, "62-layer-build-memory-ttt-l")
put(F, "a-state-can-be-saved", r'''
### A state can be saved and loaded

Notebook 04 kept a state, reset it and exchanged it. To keep it for tomorrow, save it. The file holds the state alone. The weights are
saved elsewhere, once for all users. **Predict first.** After loading, is the loss on what follows the same to the last bit?
''', "markdown")
put(F, "104-import-tempfile-from-pat", r'''
import tempfile
from pathlib import Path

from nl_course.memories import State


def loss_of_the_rest(state):
    with torch.no_grad():
        logits, _ = model(windows[:, 192:-1], state)
    return cross_entropy(logits.flatten(0, 1), windows[:, 193:].flatten()).item()


with torch.no_grad():
    _, kept = model(windows[:, :192])
before = loss_of_the_rest(kept)
with tempfile.TemporaryDirectory() as folder:
    kept.save(Path(folder) / "reading.safetensors")
    again = State.load(Path(folder) / "reading.safetensors")
print("loaded, it goes on with exactly the same loss: ", loss_of_the_rest(again) == before)
print("a state is a value, and using it left it alone:", loss_of_the_rest(kept) == before)
print(f"bytes per user: {kept.nbytes // 8:,}, whatever was read")
''')
put(F, "74-a-trap-for-whoever-tests", r'''
## A shared projection hides a stopped write

Notebook 04 used three separate projections. In the paper's main model (the Mamba backbone, which the course's language model uses) query
and key share one. Stop the write there, and the shared projection still learns, through the query. **Predict first.** Which of the two
short convolutions, the query's or the key's, still learns?
''')
put(F, "75-shared-build-memory-ttt", r'''
x, y = torch.randn(2, 2, 12, 8, dtype=torch.float64)
shared = build_memory("ttt-linear", 8, 2, mini_batch=4, stop_gradient="write").double()
loss = (shared(x)[0] - y).square().mean()
for name in ("query_key.weight", "conv_query.weight", "conv_key.weight", "value.weight"):
    part = shared.get_parameter(name)
    (gradient,) = torch.autograd.grad(loss, part, retain_graph=True, allow_unused=True)
    print(f"{name:18} learns with the write stopped: {gradient is not None and bool(gradient.norm() > 0)}")
''')
put(F, "shared-projection-said", r'''
So a test that looks only at the shared projection does not notice that the write was stopped. Look at the key's convolution, or at the
value projection.
''', "markdown")
put(F, "77-why-an-inner-loop-explo", r'''
## Beyond step · |k|² = 2 an inner loop explodes, and each cure has a limit

In 04 a write multiplied what stood along its key by 1 - step · k². Between -1 and 1 that is harmless. Beyond, every write along this key
makes the error larger, and a text has thousands of writes. For a matrix the same holds along the key: it is safe while
**step · |k|² < 2**.
''')
put(F, "78-from-nl-course-views-exp")
put(F, "79-details-summary-the-vie")
put(F, "80-make-it-happen-raise-the", r'''
Make it happen: raise the step past the bound. Then find out what each **cure** does, and what it does *not* do.

* **Keys of length 1** make the bound 2, whatever the token. Titans and HOPE do this (05 and 07).
* **A mean, not a sum.** Choose a mini-batch of 16: sixteen similar keys push in the same direction from one anchor, and the bound falls to
  a fraction of 0.5. The mean takes that back. Set the similarity to 0: keys at right angles hardly disturb each other.
* **A layer norm inside.** The larger the weights, the larger σ, and gradients are divided by σ. The memory may grow, but ever more slowly.
  TTT relies on this.
* No slider shows two more: a **learned rate** between 0 and 1, divided by the head's width, and a **learned start**.

**Predict first.** Which cure holds when one step is too large? Which holds when sixteen are taken at once? Is there one that holds for
both?
''')
put(F, "81-from-nl-course-views-exp", r'''
from nl_course.views.explosion import CURES, compute

one_token = dict(step=1.0, length=2.0, mini_batch=1, similarity=0.9)
sixteen = dict(step=0.4, length=2.0, mini_batch=16, similarity=0.9)
for cure in CURES:
    ends = [compute({**settings, "cure": cure})["norm"][-1] for settings in (one_token, sixteen)]
    said = ["holds" if end < 1e4 else "blows up" for end in ends]
    print(f"{cure:30}  one token at a time: {said[0]:8}  sixteen at once: {said[1]}")
''')
put(F, "82-what-it-means-an-inner", r'''
**What it means.** An inner loop is a system with feedback, and the text is its input. It must be stable for *every* text. Unit keys bound
one write, but not sixteen at once from one anchor. The mean bounds those, but not a single write that is too large. The layer norm holds
in both cases. TTT has the norm *and* the mean. Memories without a norm, such as 03's delta rule and Titans, use unit keys.
''')
put(F, "what-a-byte-costs", r'''
## One more byte: attention is faster at first, the memory later

Measured on your machine: one more byte after so many, both models in turn. The time does not depend on what is kept, so the cache is
filled with random numbers.

**Predict first.** Both models have half a million weights. After 256 bytes, which one needs less time for the next byte?
''', "markdown")
put(F, "96-from-nl-course-memories", r'''
from nl_course.benches.measure import in_turn
from nl_course.memories.attention import AttentionState
from nl_course.memories.attention.cache import TokenCache
from nl_course.model import ModelState


def after_reading(tokens):
    kept = torch.randn(4, 2, 1, 4, tokens, 24)  # layer, key or value, batch, head, token, width
    return ModelState(
        tuple(AttentionState(TokenCache.of(k), TokenCache.of(v), tokens) for k, v in kept)
    )


attending = load_model(asset("checkpoints/attention-micro-twin.safetensors"))
token, contexts = torch.ones(1, 1).long(), (256, 1_000, 4_000, 16_000, 64_000)
with torch.no_grad():
    _, read = model(windows[:1])
    calls = {t: (lambda state=after_reading(t): attending(token, state)) for t in contexts}
    times = in_turn({**calls, "memory": lambda: model(token, read)}, rounds=7)
milliseconds = {name: 1e3 * sorted(runs)[3] for name, runs in times.items()}
''')
put(F, "97-picture-chart-attention")
put(F, "98-at-short-contexts-attent", r'''
At short contexts attention is *faster*: a step of this memory is many small operations, and it writes. The lines cross where the cache
has become large.
''')
put(F, "inside-ttt-closing", r'''
## What you can now say

Each write of a trained layer is small, and their sum is what counts. Its start and its mini-batch belong to the model: with others it
loses more. A state is an anchor, a gathered sum, a few inputs of convolutions and a position. It does not grow, it can be cut anywhere,
saved and loaded. An inner loop explodes beyond step · |k|² = 2; unit keys, the mean and the layer norm each hold in cases of their own.

**Further reading.** Sun et al. 2024 (arXiv 2407.04620), section 2.7 for the learned start, appendix A for the gradient through the norm,
section 3 for the backbones.

**What we chose.** At another mini-batch than the trained one, which only this page does, the learned factors are kept where the place
existed and are 1/i beyond.
''', "markdown")


OVER = {}
def over(cid, text): OVER[cid] = text
def take_out(ids):
    got = [c for c in core if c["id"] in ids]
    core[:] = [c for c in core if c["id"] not in ids]
    return got
def after(cid, found):
    at = [c["id"] for c in F].index(cid) + 1
    F[at:at] = found

scissors = take_out(["stage-two-loops", "stage-two-loops-view", "stage-two-loops-still", "stage-two-loops-cut", "stage-two-loops-said"])
state = take_out(["99-the-state-in-your-hands", "102-others-kept-rows-range-1", "103-keeping-helps-since-what"])
take_out(["69-the-judge-moves-one-part", "70-def-judged-layer-part-di", "ttt-linear-drawn", "write-into-any-model-asked", "write-into-any-model-run"])
after("62-layer-build-memory-ttt-l", state)
after("shared-projection-said", scissors)

over("00-04-test-time-training-a", """
# 04 · Test-time training: a memory that learns by gradient steps

**Where we are.** Still at the bars of [the map](00_start_here.ipynb#The-map:-what-does-each-memory-keep?) that do not grow. In 03 we
found the rule of writing by hand. Here the memory is a small model, writing is training, and a second loop trains the first.

**Goals.** See that a hidden state can be a *model* and a write a *training step*. Build that layer in a dozen lines. Find the path by which
the outer loop teaches the inner one. Measure what a language model gains from it, and what it does not.

**Minutes.** About 70, exercises included. The machine needs about one.

**What you need to know.** Notebook 03: a memory as a matrix, and the delta rule as one step of gradient descent. The chain rule.

[04b](04b_inside_test_time_training.ipynb) goes further. No later notebook needs it.
""")
over("03-a-model-that-keeps-trai", """
## A model that goes on training reads better, but every user needs a copy

Notebook 03 found that the delta rule *is* one gradient step on a squared error. If a write is training, why not simply train the whole
model while it reads?

Try it. The attention model of notebook 01 reads a new book in pages of 128 bytes. It first predicts a page, and we note its loss. Only
then does it take **one** gradient step on that page. So each page is new when it counts. This old method is called
*[dynamic evaluation](glossary.md#dynamic-evaluation)* (Krause et al. 2018, arXiv 1709.07432).
""")
over("05-a-step-of-0-is-the-froze", """
A step of 0 leaves the model frozen. **Predict first.** The book has 48 pages, and the training before read millions of bytes. By how much
does a step of 0.05 per page lower the loss on the second half of the book: by almost nothing, by a sixth, or by half? And a step of 0.3?
""")
over("11-so-a-model-may-well-lear", """
The small step lowers the loss by about a sixth. The large one throws the model so far off on the first pages that it ends worse than
frozen. So a model can learn while it reads, but this way has three faults.

* **Every user needs a copy of the model**, because all weights change.
* **Each step costs a forward and a backward pass** through the whole model.
* **Nobody trained this model to learn.** Its weights are a good place to stand, and perhaps a bad place to start from. The step was our
  guess.

**Test-time training** (TTT) mends all three. A *small* model inside each layer learns, at the cost of a few matrix products; the large one
stays as it is. Where the small model starts and how far it steps are *trained*, through those very steps.
""")
over("12-a-nested-loop-of-one-we", """
## One weight shows both loops

"Trained through those very steps" is the idea on which this notebook rests. Meet it in the smallest size, a memory with one weight w.

* **Inner loop.** The memory gets a pair, key k and value v. It takes one step down the gradient of (k w - v)²/2, which is k (k w - v).
  Call the weight after the step w₁.
* **Outer loop.** The memory is asked with a query q and should answer y. The outer loss is (q w₁ - y)²/2.

How should the outer loop change the *start* w? It acts directly, and through the inner gradient. Collect both:
w₁ = (1 - step · k²) w + step · k v. So the slope of the outer loss along w has the factor **1 - step · k²**, the share of the old weight
that the write leaves.
""")
over("14-the-factor-1-step-k-is-t", """
Now PyTorch. `create_graph=True` keeps the graph *of the inner gradient*, so that it can be differentiated once more. If you forget it, or
write `.detach()`, the inner gradient counts as a constant: it is *cut* out of the graph.

**Predict first.** What does the cut do to the slope: nothing much, make it too large, or turn its sign?
""")
over("16-exact-agrees-with-the-ju", """
At a step of 0.4 the cut slope is more than twice as large as the exact one, and PyTorch gives no warning. At a step of 1.6 it even has
the other sign, so whoever trains along it walks **uphill**.

The last column says more. At a step of 1.6 the factor is below -1: every further write along this key makes the error larger. A write is
safe while **step · k² < 2**, and for a matrix while step · |k|² < 2. Beyond, an inner loop explodes.
[04b](04b_inside_test_time_training.ipynb) tries three cures.
""")
over("19-what-it-means-there-are", """
**What it means.** There are two loops and one chain rule. The inner loop uses k and v, and changes w. The outer loop changes k, v, the
step and the start of w. It reaches k, v and the step only by differentiating the write. Cut the inner gradient, and k and v get a slope of
exactly zero.
""")
over("why-not-a-matrix", """
## A matrix cannot hold every lesson; a network can

Which small model should learn? A matrix, as in 03, has a limit: its answer is linear in the key. If it answers v to k, it answers -v to
-k, whatever it was told.

Here is a lesson beyond that limit. A key is two numbers, each 1 or -1. The value is 1 if they are equal, and -1 if not. We write 400
random ones of these four pairs into a matrix and into a small network. The write is one gradient step for both.

**Predict first.** A memory that always answers 0 has a mean squared error of 1. What error have these two over their last hundred
writes, each asked just before it is written?
""")
over("write-into-any-model", """
def answer_of_matrix(k, W):
    return k @ W["W1"]  # (2,) -> (1,)


def answer_of_network(k, W):
    return torch.nn.functional.gelu(k @ W["W1"] + W["b1"]) @ W["W2"]  # (2,) -> (16,) -> (1,)


random = torch.Generator().manual_seed(0)
keys = 2.0 * torch.randint(0, 2, (400, 2), generator=random) - 1
drawn = torch.randn(2, 16, generator=random), torch.zeros(16), torch.randn(16, 1, generator=random) / 4
starts = {"matrix": {"W1": torch.zeros(2, 1)}, "network": dict(zip(("W1", "b1", "W2"), drawn))}
for name, answer in (("matrix", answer_of_matrix), ("network", answer_of_network)):
    W, errors = {part: weight.requires_grad_() for part, weight in starts[name].items()}, []
    for k in keys:
        loss = (answer(k, W) - k[0] * k[1]).square().sum() / 2
        gradients = torch.autograd.grad(loss, list(W.values()))
        W = {part: W[part] - 0.1 * gradient for part, gradient in zip(W, gradients)}
        errors.append(2 * loss.item())
    print(f"{name:8} error over the last hundred writes: {sum(errors[-100:]) / 100:.2f}")
""")
[c for c in core if c["id"] == "write-into-any-model"][0]["metadata"]["tags"] = ["core", *CHECK]
over("write-into-any-model-said", """
The matrix is worse than always answering 0. The network has learned all four pairs. So the memory may be *any* model, and nobody has to
derive a rule of writing for it: a write is one step down its gradient. The example is a toy that shows the limit. It does not
show that text needs more than a matrix.
""")
over("20-the-hidden-state-is-a-m", """
## The hidden state is a model, and a write is one training step

Here is the layer, **TTT-Linear** (Sun et al. 2024, arXiv 2407.04620, section 2). Each token gives a key, a value and a query, as in
attention. The hidden state is a small model f with weights W, *trained while it reads*.

* **Write**: one gradient step on the loss ℓ = |f(k; W) - v|²/2. The pair (k, v) is a training example that the layer makes for itself:
  *from this view of the token, predict that one.*
* **Read**: z = f(q; W), with the weights after the step.

In the paper f(x) = x + LN(x W + b): a linear map, a layer norm (LN), and a residual path around both. In **TTT-MLP**, the paper's second
layer, f has two linear maps. Only the memory and the write (4) differ from 03's delta rule:

![The delta rule's machine with memory and write drawn thick. The memory is a model, x plus the layer norm of x W, which predicts f of k. The write is a training step: W less the step η times the gradient of half the squared error. The next token begins with W and a sum of gradients.](../assets/diagrams/memory-ttt-linear.svg)
""")
over("22-and-now-the-whole-inner", """
Now the whole inner loop, token by token. Two details come from the paper's section 2.4; the next section explains them. The gradients of a
**mini-batch** of `size` tokens are all taken at the weights with which it began, the *anchor*. And the weights move by the *running mean*
of these gradients.
""")
over("24-that-is-all-of-it-a-doze", """
That is all: a dozen lines, and a training loop like any you know. Is it what the course's layer computes? We take the layer's own
projections, its learned start, and its rate, a sigmoid of the token divided by the width of a head.
""")
over("26-ten-tokens-mini-batches", """
**Does the inner loop run in training too, or only at test time?** Always, because reading *is* taking these steps. Training runs the same
loop over every training text, from the same learned start, and then goes backward through it. So the projections are trained *for* a
layer that learns.

| | when | what changes | lasts |
|---|---|---|---|
| inner loop | at every token, in training and in use | W, from the start W₀ on | until the text ends |
| outer loop | at every training step | W₀, projections, rates, everything else | for good |

![A dashed frame, one outer step, holds a row: start W, four writes under the words The code is 7214, and an outer loss. A line for the gradient walks back from the loss under the writes, with arrows up into each write and down to what all writes share, projections, steps and gates. A vertical cut stands after the second write; left of it the line is dashed, as far as the start. Below, the outer loop: a row of such steps.](../assets/diagrams/two-loops.svg)
""")
over("stage-inner-loop", """
### Watch the writes

The [stage of 00](00_start_here.ipynb#Watch-both-students-read) runs live here with a smaller memory, 03's
[Gated DeltaNet](03_memory_that_learns.ipynb#The-layers-that-people-train): four matrices of 16 by 16. Its write is one gradient step on
|k W - v|²/2, and each token chooses its own step. The outer loop has trained it for 1,000 steps.

Press ▶▏ to follow one write: key and value (1), prediction (2), error (3). Then step times key times error flies into W (4).

**Predict first.** The line *step* shows how far each letter's write has gone. Are the steps at the five digits of the fact smaller than
all others, the same, or several times as large? And *before* training (0 outer steps)?
""")
over("stage-inner-loop-said", """
**Where the model takes a large step is learned in the outer loop.** Before training the steps cannot tell the fact from the ferry.
Afterwards every head steps at least twice as far at the digits. Put in your own text and fact, and see whether the
trained steps find it.
""")
over("41-online-mini-batch-batch", """
## Mini-batches let the writes run at the same time

What is wrong with one step per token? Speed. Token t's gradient needs the weights after token t - 1, so the writes form a chain, and a
machine made for large matrix products waits at every link.

The cure is known from ordinary training. Take all gradients of a **mini-batch** at one place, the anchor, and none has to wait for
another. The paper takes 16 tokens. The price is that all but the first gradient of a mini-batch are a little stale.
[04b](04b_inside_test_time_training.ipynb) measures five sizes.

How far should sixteen gradients from one anchor move the weights? The paper's equation 6 takes their *sum*. The authors' code multiplies
the sum by a learned factor that starts as 1/i at the i-th token: a running *mean*. Sixteen equal tokens then move the memory once, and
not sixteen times as far.
""")
over("51-the-same-numbers-with-m", r"""
### The dual form: the same numbers with matrix products

With one anchor, token j's gradient is an outer product of its key and its error, $k_j^\top e_j$. With rates $\lambda_j$ and factors
$c_i$, the answer of token i needs no weight matrix of its own:

$$ q_i W_i = q_i \Big(W - c_i \sum_{j \le i} \lambda_j\, k_j^\top e_j\Big) = q_i W - \sum_{j \le i} (c_i \lambda_j)\,(q_i \cdot k_j)\; e_j $$

The product $q_i \cdot k_j$ is one number per pair of tokens, so a mini-batch is a 16 × 16 table with an empty upper half. It looks like
attention, with errors in the place of values. This is the *[dual form](glossary.md#dual-form)*. Build it for a linear memory.
""")
over("54-the-course-s-layer-has-b", """
The course's layer has both forms: `path="reference"` differentiates with autograd, token by token, and `path="chunked"` is the dual form.
**Predict first.** How far apart are their outputs and gradients, in double precision?
""")
over("58-what-it-means-the-mini", """
**What it means.** The mini-batch is a choice of *algorithm*: another size gives other numbers. The dual form is a choice of *arithmetic*:
the same numbers, sooner.
""")
over("64-two-loops-now-the-quest", """
## Keys and values learn only through the writes

Users of such layers ask this most: *the inner loop uses k and v but changes only W. How do the projections that make k and v learn at
all?*

An outer step runs the whole inner loop and computes the model's loss. Then it goes backward through the reads and **through the writes**.
A write is a gradient, so this takes second derivatives.

Three outer gradients can be taken. *Exact* goes through the writes. *[First-order](glossary.md#first-order)* treats each inner gradient as
a constant, like the cut above. *Stopped* treats the whole write as a constant.
""")
over("67-as-it-opens-one-write-wi", """
### The same in the real layer, part by part

Take a TTT-Linear layer with three separate projections, three mini-batches of tokens, and a target for the output. A finite difference
moves one part along a random direction, a little up and a little down. Does each part's exact gradient agree with it?
""")
slope = "".join(cells["70-def-judged-layer-part-di"]["source"])
over("68-x-y-torch-randn-2-2-12-8", "".join(cells["68-x-y-torch-randn-2-2-12-8"]["source"]) + "\n\n\n" + slope)
over("71-predict-first-for-each", """
And how long are the other two gradients, compared with the exact one? **Predict first**, for the projections of query, key and value, the
rate, and the start: which learn nothing when the write is stopped? Which do not notice?
""")
over("73-read-the-two-columns-of", """
**The projections of keys and values learn only through the write.** With the inner gradient cut they get exactly nothing.

| who | learns what | through which path | with the write stopped |
|---|---|---|---|
| projections of key and value | which lesson each token sets for the memory | only through the inner gradient (second order) | exactly zero |
| rate, position factors | how much each lesson counts | through the write (first order) | exactly zero |
| start W₀, b₀; gain and shift of the inner norm | where learning begins; what the norm makes of it | the read, and every write after it | another gradient |
| projection of the query | what to ask | the read | all of it |
| output, post-norm, everything around | what to do with the answer | around the memory | all of it |
| **W** | this text | the inner loop alone, while reading | not touched by the outer loop |

**What it means.** *A write is one step of SGD; training shapes it through that very step.* Without this path two of the three projections
would stay as random as they began. [04b](04b_inside_test_time_training.ipynb) cuts the gradient by hand in a trained memory.
""")
over("83-a-language-model-that-l", """
## Writing helps a language model, and its state stays small

Now two language models with 468 thousand weights each. One attends, the other has TTT-Linear in every layer. Both read the same bytes for
1,600 steps, in contexts of 256 bytes. As in the paper, each TTT block also has a short convolution, which lets a token's key contain the
few tokens before it.

### The writes are worth a fifth of a nat per byte

One switch tells: the same trained TTT model, with the base of its rates set to 0. It reads and never writes.

**Predict first.** How does the loss on held-out books differ at the first 16 bytes, and how later?
""")
over("40-what-it-means-the-hidde", """
After the first bytes the writes lower the loss by 0.20 nats per byte. That is their worth to *this* model, which was trained to use them.
A model trained without writes could do better than our silent one; we trained none. And a lower loss is not yet *remembering* (08).

### Attention meets a cliff, and the memory does not

**Predict first.** Both models are now given 1,024 bytes. What does the loss of each do beyond 256? We add the same attention model with a
window: each byte may look back over 256 bytes only.
""")
over("90-careful-with-what-this-s", """
The bars and ranges are [intervals](glossary.md#interval) over the windows of held-out text.

* **Within 256 bytes** TTT's loss is about 0.10 nats per byte lower. Not all of this need be the inner loop's: this attention model has no
  short convolution, and we have not trained one that has.
* **Beyond 256 bytes** attention's loss is higher by 1.5 nats, because it meets distances that it never saw in training. A window of 256
  mends it at once. So this does *not* show that attention cannot read long texts. The memory has no such cliff, but it does not improve
  with more context either.
* This is one seed, half a million weights, and 3.3 million bytes of training. The paper's comparisons begin at 125 million weights.

### The state keeps one size, but a byte is not always cheaper

**Predict first.** From which number of bytes on does the cache outweigh the memory?
""")
over("95-after-thirty-bytes-of-te", """
After thirty bytes of text the cache is larger. Time is another matter. At short contexts attention is *faster* per byte; the memory wins
only where the cache has become large.
[04b](04b_inside_test_time_training.ipynb#One-more-byte:-attention-is-faster-at-first,-the-memory-later) times both on your machine.

The state is a value that the model returns and takes. You may keep, reset, save or load what was learned while reading, and the model's
weights stay untouched: [04b](04b_inside_test_time_training.ipynb#You-decide-what-happens-to-a-state) does it. How much a state *holds*
is measured in 08 and 09.
""")
over("105-what-it-means-keep-rese", """
## Two rows join the family

What is written into is new, a small model. So is the chunk: in 03 it changed only the speed, and here it is part of the rule.

""" + fam[i:j] + "The table of rules, with what this notebook built:\n\n" + fam[k_:])
over("106-before-you-go-on-what-y", """
## What you can now say

*A write is one step of SGD; training shapes it through that very step.* You measured it: exact gradients agreed with finite differences at
every part, and with the inner gradient cut those of the key and value projections were exactly zero. In a trained model the writes lowered
the loss by a fifth of a nat per byte, in a state that never grew.

**What opens up.** Each write acts once, and nothing decides what to forget. Notebook 05 adds momentum, and a memory that lets go.

**Three questions to discuss.**

""" + close[q0:q1] + """**Further reading.** Sun et al. 2024, *Learning to (learn at test time)* (arXiv 2407.04620): equations 1 to 5; section 2.4 for
mini-batches, 2.5 for the dual form, 2.7 for the learned start; Table 1 for what each is worth. Finn et al. 2017, *Model-agnostic
meta-learning* (arXiv 1703.03400), section 5.2: what first order leaves out. Krause et al. 2018, *Dynamic evaluation* (arXiv 1709.07432),
section 3. Schlag et al. 2021 (arXiv 2102.11174), section 4: the delta rule.

**Where the paper is silent, and what we chose.** The paper's equation 6 sums gradients. Its code multiplies the sum by a learned 1/i and
the rate by 1/f, and so do we. Its code has a bias in the inner model, and so have we. Neither says what to do between texts; we start each
from W₀. [04b](04b_inside_test_time_training.ipynb) has the rest.
""")
# ---- further
over("99-the-state-in-your-hands", """
## You decide what happens to a state

*Are the [fast weights](glossary.md#fast-weights) updated at inference? Are they carried over to the next sample?* They are updated.
Whether they are carried over is **your** decision, because the state is a value that the model returns and takes.

Take 32 places in the held-out books. At each the model reads 512 bytes, and we ask it about the next 64.

**Predict first.** There are three ways to go on: with the state *kept*; *reset* to the learned start; or with *another's* state, from the
next of the 32 places. Which is best, which worst?
""")
over("103-keeping-helps-since-what", """
Keeping helps, because what was learned is about *this* text. Another text's state is worse than none, because that memory has adapted to
the wrong book. So reset between unrelated texts. Nothing that was learned in one text outlives it unless you keep it.
""")
over("a-state-can-be-saved", """
To keep a state for tomorrow, save it. The file holds the state alone. The weights are saved elsewhere, once for all users. **Predict
first.** After loading, is the loss on what follows the same to the last bit?
""")
over("104-import-tempfile-from-pat", """
import tempfile
from pathlib import Path

from nl_course.memories import State

before = loss_of_what_follows(kept)
with tempfile.TemporaryDirectory() as folder:
    kept.save(Path(folder) / "reading.safetensors")
    again = State.load(Path(folder) / "reading.safetensors")
print("loaded, it goes on with exactly the same loss: ", loss_of_what_follows(again) == before)
print("a state is a value, and using it left it alone:", loss_of_what_follows(kept) == before)
""")
st = [c for c in F if c["id"] == "102-others-kept-rows-range-1"][0]
st["source"] = rep.lines("".join(st["source"]).replace("learning(", "model("))
over("stage-two-loops", """
## In a trained memory the outer gradient comes from the fact

The stage once more, recorded with the Titans memory of 00, and with its last outer step unfolded. The strip holds every write of the text.
The loss at its right end is that of the answer. Its gradient walks back through the writes. The bars show how much of it reaches each
byte's value (up) and key (down).

**Predict first.** Move the scissors: everything before the cut then counts as a constant. Cut just *before* the fact. Does the projection
of values lose most of its gradient, or little? And four bytes *after* the fact? Then choose *first order* and *stopped*: what still
learns?
""")
over("stage-two-loops-view", "from nl_course.views.stage import Stage\n\nStage.recorded(unfolded=True)")
over("stage-two-loops-cut", """
import base64
import json

import numpy as np

recorded = json.loads(asset("stage.json").read_text("utf-8"))
outer_step = recorded["memories"][0]["checkpoints"][-1]["outer"]["exact"]
stored = base64.b64decode(outer_step["value_weights"]["f32"])
left = np.frombuffer(stored, dtype="<f4")  # gradient at the projection of values, by place of the cut
first, last = recorded["fact"]["first"], recorded["fact"]["last"]
for name, place in (("just before the fact", first), ("four bytes after the fact", last + 4)):
    print(f"cut {name}: {left[place] / left[0]:.2f} of the gradient is left")
""")
over("stage-two-loops-said", """
So nearly all that this text teaches about values comes through the writes of the fact and of the few bytes behind it. With *first order*
the projections of keys and values learn nothing, while gates and start still do. With *stopped* only the start does. Move the dial to 0
outer steps and cut again: before training the gradient does not single out the fact.
""")
over("80-make-it-happen-raise-the", "".join([c for c in F if c["id"] == "80-make-it-happen-raise-the"][0]["source"]))
over("inside-ttt-closing", """
## What you can now say

Each write of a trained layer is small, and their sum is what counts. Its start and its mini-batch belong to the model: with others it
loses more. A state is an anchor, a gathered sum, a few inputs of convolutions and a position. It does not grow, and it can be cut anywhere,
saved and loaded. An inner loop explodes beyond step · |k|² = 2. Unit keys and the mean each hold in one case, and the layer norm in both.

**Further reading.** Sun et al. 2024 (arXiv 2407.04620), section 2.7 for the learned start, appendix A for the gradient through the norm,
section 3 for the backbones.

**Where the paper is silent, and what we chose.** `position_factor="sum"` is the paper's equation 6; our default is the mean of its code. The
code's inner model has a bias and the paper's formula has none; we have it. The loss is halved, as in the code. Neither says how to cut a
text inside a mini-batch; we carry the gathered sum. At another mini-batch than the trained one, which only this page does, the learned
factors are kept where the place existed and are 1/i beyond.
""")
for c in core + F:
    if c["id"] in OVER:
        c["source"] = rep.lines(OVER[c["id"]].strip("\n"))

new = {"nbformat": old["nbformat"], "nbformat_minor": old["nbformat_minor"], "metadata": json.loads(json.dumps(old["metadata"])), "cells": further}
new["metadata"]["nl_course"] = {"minutes": {}}
for c in core + further:
    c["id"] = c["id"][:64]
dropped = [c["id"] for c in old["cells"] if c not in core and c not in further]
print("dropped:", dropped)
old["cells"] = core
assert len({c["id"] for c in core}) == len(core)
rep.save(A, old); rep.save(B, new)
