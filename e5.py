import sys, json, subprocess; sys.path.insert(0,"/tmp/w/bin"); import rep
A="notebooks/04_test_time_training.ipynb"; B="notebooks/04b_inside_test_time_training.ipynb"
rep.edit(A,[
("write-into-any-model-said","The example is a toy that shows the limit. It does not\nshow that text needs more than a matrix.","This is a toy; it does not show that\ntext needs more than a matrix."),
("12-a-nested-loop-of-one-we",'"Through those very steps" is the idea on which this notebook rests. Meet it in the smallest size, a memory with one weight w.','"Through those very steps": meet this idea in the smallest size, a memory with one weight w.'),
("40-what-it-means-the-hidde","At first there is little to know. From byte 17 on","From byte 17 on"),
("03-a-model-that-keeps-trai","Try it. The attention model","The attention model"),
("00-04-test-time-training-a","goes further: single writes, the learned start, the exact state, loops that explode. No later\nnotebook needs it.","goes further: single writes, the learned start, the exact state, explosions. No later notebook\nneeds it."),
("22-and-now-the-whole-inner","the *anchor* (the paper's section 2.4). And","the *anchor*. And"),
("11-so-a-model-may-well-lear","and in the second half it is\nstill worse than the frozen one.","and over the second half it\nis still worse than frozen."),
("26-ten-tokens-mini-batches","So the projections are trained *for* a layer that\nlearns.","So the projections are trained *for* this loop."),
])
old=json.loads(subprocess.check_output(["git","show","1f22c6c:notebooks/04_test_time_training.ipynb"]))
o=[c for c in old["cells"] if c["id"]=="97-picture-chart-attention"][0]
nb=rep.load(B); c=rep.cell(nb,"97-picture-chart-attention")
assert "".join(c["source"])=="".join(o["source"])
c["outputs"]=o["outputs"]; rep.save(B,nb)
