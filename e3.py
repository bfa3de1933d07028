import sys; sys.path.insert(0,"/tmp/w/bin"); import rep
A="notebooks/04_test_time_training.ipynb"; B="notebooks/04b_inside_test_time_training.ipynb"
rep.put(A,"13-k-v-q-y-step-1-2-0-8-1-0",'''k, v, q, y = 1.2, 0.8, 1.0, 1.5


def loss_after_one_write(w, step):
    written = w - step * k * (k * w - v)  # the inner step
    return (q * written - y) ** 2 / 2  # the outer loss


by_hand = (q * (0.3 - 0.4 * k * (k * 0.3 - v)) - y) * q * (1 - 0.4 * k**2)  # start 0.3, step 0.4
difference = (loss_after_one_write(0.3 + 1e-4, 0.4) - loss_after_one_write(0.3 - 1e-4, 0.4)) / 2e-4
print(f"slope along the start, by hand {by_hand:.4f}, as a finite difference {difference:.4f}")''')
rep.put(A,"15-def-outer-gradient-creat",'''def outer_gradient(step, create_graph):
    w = torch.tensor(0.3, requires_grad=True)
    (inner,) = torch.autograd.grad((k * w - v) ** 2 / 2, w, create_graph=create_graph)
    return torch.autograd.grad((q * (w - step * inner) - y) ** 2 / 2, w)[0].item()


for step in (0.4, 1.6):
    exact, cut = (outer_gradient(step, create_graph) for create_graph in (True, False))
    print(f"step {step}: exact {exact:.4f}, cut {cut:.4f}; 1 - step k² = {1 - step * k**2:.3f}")''')
rep.put(A,"08-from-nl-course-views-cha",'''from nl_course.views.kit.charts import chart

picture = chart("Mean loss of the last eight pages. A small step lowers it; a large one throws the model far off.",
                x="page of 128 bytes", y="loss (nats per byte)")
for (step, curve), dash in zip(curves.items(), ("solid", "dash", "dot")):
    recent = curve.unfold(0, 8, 1).mean(dim=1)
    picture.line(range(8, 49), recent, f"step {step}", "outer" if step else "attention", dash=dash)
picture''')
rep.put(A,"94-measured-all-reader-stat",'''attending = load_model(asset("checkpoints/attention-micro-twin.safetensors"))
per_byte, fixed = attending.state_bytes(1), learning.state_bytes(1)
print(f"the cache grows by {per_byte:,} bytes per byte read; the memory keeps {fixed:,}")
print(f"equal after {fixed / per_byte:.1f} bytes; after 16,384 the cache is {16_384 * per_byte / fixed:.0f} times as large")
measured = [each.state_bytes(row["tokens"]) == row["bytes"]
            for each, rows in ((attending, attends), (learning, learns)) for row in rows["state"]]
print("the recorded run measured these sizes at 256 to 16,384 bytes read:", all(measured))''')
rep.put(A,"stage-inner-loop-steps",'''import numpy as np

from nl_course.record.stage.take import unpacked

checkpoints = stage.screen.take["memories"][0]["checkpoints"]
for checkpoint in (checkpoints[0], checkpoints[-1]):
    steps = [unpacked(head["step"]) for head in checkpoint["heads"]]  # (221,) for each head: one per byte
    times = [f"{each[82:87].mean() / np.delete(each, range(82, 87)).mean():.0f}" for each in steps]
    print(f"{checkpoint['step']:>5,} outer steps: the digits' step, in times of all others, per head:", *times)''')
rep.edit(A,[("68-x-y-torch-randn-2-2-12-8","def slope_along(","def judged("),
("72-stops-none-first-order-w","slope_along(","judged("),
("67-as-it-opens-one-write-wi","Take a TTT-Linear layer with three separate projections, three mini-batches of tokens, and a target for the output. A finite difference\nmoves one part along a random direction, a little up and a little down. Does each part's exact gradient agree with it?",
"Take a TTT-Linear layer with three separate projections, three mini-batches of tokens, and a target for the output. Does each part's exact\ngradient agree with a finite difference, which moves it a little up and down along a random direction?"),
("40-what-it-means-the-hidde","We add the same attention model with a\nwindow: each byte may look back over 256 bytes only.","And what if each byte of attention's\nmay look back over 256 bytes only?"),
])
rep.edit(A,[("40-what-it-means-the-hidde","And what if each byte of attention's\nmay look back over 256 bytes only?","And attention's, if each\nbyte may look back over 256 bytes only?")])
rep.put(B,"stage-two-loops-cut",'''import json

from nl_course.record.stage.take import unpacked

recorded = json.loads(asset("stage.json").read_text("utf-8"))
outer_step = recorded["memories"][0]["checkpoints"][-1]["outer"]["exact"]
left = unpacked(outer_step["value_weights"])  # gradient at the projection of values, by place of the cut
first, last = recorded["fact"]["first"], recorded["fact"]["last"]
for name, place in (("just before the fact", first), ("four bytes after the fact", last + 4)):
    print(f"cut {name}: {left[place] / left[0]:.2f} of the gradient is left")''')
rep.edit(B,[("77-why-an-inner-loop-explo","## Beyond step · |k|² = 2 an inner loop explodes, and each cure has a limit","## Beyond a bound on step and key an inner loop explodes; three cures compared")])
