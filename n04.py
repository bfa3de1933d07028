import torch, json
from torch.nn.functional import cross_entropy
from nl_course.files import asset
from nl_course.views.stage.widget import recorded_take
t=recorded_take(); print(t.keys())
def show(o,d=0,name=""):
    if d>4: return
    if isinstance(o,dict):
        for k,v in list(o.items())[:14]:
            print("  "*d+str(k), type(v).__name__, (len(v) if hasattr(v,'__len__') else v)); show(v,d+1)
    elif isinstance(o,list) and o and isinstance(o[0],(dict,list)): show(o[0],d+1)
for k in t:
    if 'unfold' in k or 'outer' in k or 'cut' in k: print("==",k); show(t[k],1)
r=json.loads(asset("runs/inner-loop.json").read_text())
for d in r["ttt_less_attention"]["all"]: print({k:(round(v,3) if isinstance(v,float) else v) for k,v in d.items()})
for m in r["models"]: print(m,[ (b["from"],b["to"],round(b["mean"],3)) for b in r["models"][m]["loss"]], r["models"][m].keys())
# A
from nl_course.training.checkpoint import load_model
from nl_course.tasks.text import encode, library
def read_and_learn(model, pages, step):
    losses = []
    for x, y in pages:
        loss = cross_entropy(model(x[None])[0][0], y)
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for weight, gradient in zip(model.parameters(), gradients):
                weight -= step * gradient
    return torch.tensor(losses)
book = next(b for b in library("prose").held_out if b.name == "sympy.sets.sets")
text = encode(book.text)[: 48 * 128 + 1]
pages = list(zip(text[:-1].split(128), text[1:].split(128)))
for step in (0, 0.05, 0.3):
    c=read_and_learn(load_model(asset("checkpoints/attention-micro.safetensors")),pages,step)
    print(step, c[24:].mean(), c[:24].mean(), c.max())
# C
from copy import deepcopy; from dataclasses import replace
from nl_course.training import evaluate_windows, token_losses
model = load_model(asset("checkpoints/ttt-linear-micro.safetensors"))
held_out = library("prose").stream("held_out").long()
for n in (8,32):
    windows = torch.stack([held_out[s : s + 257] for s in evaluate_windows(held_out, 256, n)])
    silent = deepcopy(model)
    for block in silent.layers: block.memory.config = replace(block.memory.config, base_rate=0.0)
    with torch.no_grad(): w,nv=[token_losses(m, windows[:, :-1], windows[:, 1:]).mean(0) for m in (model,silent)]
    for a,b in ((0,16),(16,64),(64,256),(0,256)): print(n,a,b,w[a:b].mean().item(),nv[a:b].mean().item())
