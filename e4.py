import sys; sys.path.insert(0,"/tmp/w/bin"); import rep
A="notebooks/04_test_time_training.ipynb"; B="notebooks/04b_inside_test_time_training.ipynb"
rep.edit(A,[
("00-04-test-time-training-a","[04b](04b_inside_test_time_training.ipynb) goes further. No later notebook needs it.","[04b](04b_inside_test_time_training.ipynb) goes further: single writes, the learned start, the exact state, loops that explode. No later\nnotebook needs it."),
("05-a-step-of-0-is-the-froze","The book has 48 pages, and the training before read millions of bytes.","The book has 48 pages; in training the model read millions of bytes."),
("11-so-a-model-may-well-lear","The small step lowers the loss by about a sixth. The large one throws the model so far off on the first pages that it ends worse than\nfrozen. So a model","The small step lowers the loss by about a sixth. The large one throws the model far off on the first pages, and in the second half it is\nstill worse than the frozen one. So a model"),
("12-a-nested-loop-of-one-we","How should the outer loop change the *start* w? It acts directly, and through the inner gradient. Collect both:","How should the outer loop change the *start* w? The start acts directly, and through the inner gradient. Collect both:"),
("14-the-factor-1-step-k-is-t","What does the cut do to the slope: nothing much, make it too large, or turn its sign?","What does the cut do to the slope, at a step of 0.4 and at 1.6: nothing much, make it too large, or turn its\nsign?"),
("16-exact-agrees-with-the-ju","Beyond, an inner loop explodes.\n[04b](04b_inside_test_time_training.ipynb) tries three cures.","Beyond that an inner loop explodes;\n[04b](04b_inside_test_time_training.ipynb) compares three cures."),
("22-and-now-the-whole-inner","Two details come from the paper's section 2.4; the next section explains them. The gradients of a\n**mini-batch** of `size` tokens are all taken at the weights with which it began, the *anchor*. And the weights move by the *running mean*\nof these gradients.","The next section explains two details. The gradients of a **mini-batch** of `size` tokens are\nall taken at the weights with which it began, the *anchor* (the paper's section 2.4). And the weights move by the *running mean* of these\ngradients, as in the authors' code."),
("24-that-is-all-of-it-a-doze","We take the layer's own\nprojections, its learned start, and its rate, a sigmoid of the token divided by the width of a head.","We take the layer's own\nprojections, start and rate. The rate is a sigmoid of a number made from the token, divided by the width of a head."),
("stage-inner-loop","The line *step* shows how far each letter's write has gone. Are the steps","The line *step* shows the step that each letter chose. Are the steps"),
("stage-inner-loop-said","Afterwards the four heads step between two and fourteen times as far at the digits.","Afterwards the step at the digits is two to fourteen times the mean of all others, depending on the head."),
("41-online-mini-batch-batch","a\nmachine made for large products waits at every link.","a\nmachine made for large matrix products waits at every link."),
("51-the-same-numbers-with-m","The product $q_i \\cdot k_j$ is one number per pair of tokens, so a mini-batch is a 16 × 16 table with an empty upper half.","The product $q_i \\cdot k_j$ is one number per pair of tokens. A mini-batch of 16 needs one 16 × 16 table with an empty upper half."),
("39-from-copy-import-deepcop",'{never:.2f} without")','{never:.2f} without: {never - writes:.2f} lower")'),
("40-what-it-means-the-hidde","After the first bytes the writes lower the loss by 0.20 nats per byte.","At first there is little to know. From byte 17 on the writes lower the loss by 0.20 nats per byte."),
("90-careful-with-what-this-s","* This is one seed, half a million weights, and 3.3 million bytes of training. The paper's comparisons begin at 125 million weights.","* This is one seed and half a million weights. The paper's comparisons begin at 125 million weights."),
("83-a-language-model-that-l","with the base of its rates set to 0. It reads and never writes.","with the base of its rates set to 0. It reads but never writes."),
("95-after-thirty-bytes-of-te","weights stay untouched: [04b](04b_inside_test_time_training.ipynb#You-decide-what-happens-to-a-state) does it. How much","weights stay untouched ([04b](04b_inside_test_time_training.ipynb#You-decide-what-happens-to-a-state) shows how). How much"),
("105-what-it-means-keep-rese","What is written into is new, a small model. So is the chunk: in 03 it changed only the speed, and here it is part of the rule.","Two things are new beside 03. The memory is a small model. And the chunk is part of the rule, where in 03 it changed only the speed."),
("106-before-you-go-on-what-y","section 2.4 for\nmini-batches, 2.5 for the dual form, 2.7 for the learned start; Table 1 for what each is worth.","section 2.4 for\nmini-batches, section 2.5 for the dual form, section 2.7 for the learned start; Table 1 for what each is worth."),
("72-stops-none-first-order-w","(lengths, exact is 1)","(length of the gradient, exact is 1)"),
])
rep.edit(B,[
("27-under-the-microscope-th","half a million weights, 1,600 recorded steps on the course's library.","half a million weights, trained for 1,600 steps on the course's library."),
("38-why-can-the-zero-start-n","the root of 0.000001, which is a\nthousandth.","the root of a millionth, which is a\nthousandth."),
("38-why-can-the-zero-start-n","The learned start is trained together","The learned start was trained together"),
("80-make-it-happen-raise-the","and the bound falls to\n  a fraction of 0.5. The mean takes that back.","and the bound falls to\n  a fraction of what it was. The mean takes that back."),
("ttt-mlp-drawn","It holds more and costs more.","It has more weights to write into, and a step costs more."),
("99-the-state-in-your-hands","They are updated.\nWhether they are carried over","They are updated. Whether\nthey are carried over"),
("103-keeping-helps-since-what","because that memory has adapted to\nthe wrong book.","because that memory has adapted to\nanother book."),
("inside-ttt-closing","Its start and its mini-batch belong to the model: with others it\nloses more.","Its start and its mini-batch belong to the model: with another\nstart, or with larger mini-batches, its loss is higher."),
])
