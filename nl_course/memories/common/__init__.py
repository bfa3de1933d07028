"""What several memories are made of.

weights.py        an inner model's weights, with plus, minus and times
inner_model.py    the small networks that a memory trains while it reads, and the gradient of their loss
conv.py           short causal convolutions
gate.py           the output gate
custom_vjp.py     operations with a backward pass by hand that can still be differentiated further
"""
