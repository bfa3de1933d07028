"""The stage: a machine that reads, drawn as it learns."""
