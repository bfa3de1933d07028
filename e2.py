import sys; sys.path.insert(0,"/tmp/w/bin"); import rep
A="notebooks/04_test_time_training.ipynb"; B="notebooks/04b_inside_test_time_training.ipynb"
rep.edit(B,[
("mini-batch-sizes","## The mini-batch it was trained with is the best one","## Larger mini-batches than the trained one read worse, and smaller ones no better"),
("mini-batch-sizes","**Predict first.** Will 1 be better than 16? Which size will be worst: 1, 4, 16, 64 or 256?","**Predict first.** Will 1 be better than 16? Which size will be worst: 1, 4, 16, 64, or 256, which is one step for the whole text?"),
])
rep.put(B,"43-it-is-best-where-it-was","""The trained size is the best, though 4 is as good to two decimals. Size 1 is a little worse, even though its gradients are the freshest:
the outer loop has fitted start, rates and projections to mini-batches of 16. A model *trained* with 1 would be another model. The paper
finds small sizes somewhat better, and much slower.""")
rep.edit(A,[("00-04-test-time-training-a","Still at the bars of","At the bars of"),
("106-before-you-go-on-what-y","**Where the paper is silent, and what we chose.** The paper's equation 6 sums gradients. Its code multiplies the sum by a learned 1/i and\nthe rate by 1/f, and so do we.","**Where the paper is silent, and what we chose.** The paper's equation 6 sums gradients. Its code multiplies the sum by a learned 1/i, and so\ndo we."),
])
