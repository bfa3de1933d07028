"""Everything that is worth asking a GPU, in one run of eight minutes: `make gpu`.

plan.py says which rows there are, in sections that each have a share of the time. guard.py runs a row at a time in a
process of its own, so that one that fails, hangs, or breaks the device costs that row and no other. contestants.py
builds what is measured, measures.py measures it, counts.py counts its operations beside, and suite.py runs the tests
that need a GPU. `__main__` writes `assets/runs/gpu.json`, anew after every row.
"""
