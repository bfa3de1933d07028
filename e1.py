import sys; sys.path.insert(0,"/tmp/w/bin"); import rep
A="notebooks/04_test_time_training.ipynb"
rep.edit(A,[
("25-from-nl-course-memories","k, v, q = (part(x)[0] for part in (layer.key, layer.value, layer.query))  # (10, 8) each","keys, values, queries = (part(x)[0] for part in (layer.key, layer.value, layer.query))  # (10, 8)"),
("25-from-nl-course-memories","read_by_training(k, v, q, rate, start)","read_by_training(keys, values, queries, rate, start)"),
("68-x-y-torch-randn-2-2-12-8","x, y = torch.randn(2, 2, 12, 8, dtype=torch.float64)","torch.manual_seed(0)\ntokens, target = torch.randn(2, 2, 12, 8, dtype=torch.float64)"),
("68-x-y-torch-randn-2-2-12-8","loss, parts = (layer(x)[0] - y).square().mean(), dict(layer.named_parameters())","loss, parts = (layer(tokens)[0] - target).square().mean(), dict(layer.named_parameters())"),
("68-x-y-torch-randn-2-2-12-8","losses.append((layer(x)[0] - y).square().mean().item())","losses.append((layer(tokens)[0] - target).square().mean().item())"),
("stage-inner-loop-said","Afterwards every head steps at least twice as far at the digits.","Afterwards the four heads step between two and fourteen times as far at the digits."),
("26-ten-tokens-mini-batches","Training runs the same\nloop over every training text, from the same learned start, and then goes backward through it. So the projections are trained *for* a\nlayer that learns.","Training runs the same\nloop over every text, from the same learned start, and then goes backward through it. So the projections are trained *for* a layer that\nlearns."),
("12-a-nested-loop-of-one-we",'"Trained through those very steps" is the idea on which this notebook rests. Meet it in the smallest size, a memory with one weight w.','"Through those very steps" is the idea on which this notebook rests. Meet it in the smallest size, a memory with one weight w.'),
("41-online-mini-batch-batch","so the writes form a chain, and a\nmachine made for large matrix products waits at every link.","so the writes form a chain, and a\nmachine made for large products waits at every link."),
("90-careful-with-what-this-s","So this does *not* show that attention cannot read long texts. The memory has no such cliff, but it does not improve\n  with more context either.","So this does *not* show that attention cannot read long texts. The memory has no such cliff, but more context does\n  not help it either."),
("16-exact-agrees-with-the-ju","The last column says more. At a step of 1.6 the factor is below -1: every further write along this key makes the error larger.","In the last column the factor is below -1 at a step of 1.6: every further write along this key makes the error larger."),
("106-before-you-go-on-what-y","Krause et al. 2018, *Dynamic evaluation* (arXiv 1709.07432),\nsection 3. Schlag et al. 2021 (arXiv 2102.11174), section 4: the delta rule.","Krause et al. 2018 (arXiv 1709.07432), section 3."),
("106-before-you-go-on-what-y"," Its code has a bias in the inner model, and so have we. Neither says what to do between texts; we start each\nfrom W₀."," Neither says what to do between texts; we start each from W₀."),
])
