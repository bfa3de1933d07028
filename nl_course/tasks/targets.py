"""The one number that tasks and the training loss must agree on."""

# A target with this value is not scored. It is the value that `torch.nn.functional.cross_entropy` leaves out by itself.
IGNORED = -100
