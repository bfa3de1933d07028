"""What several memories are made of: the inner model and its gradient, short convolutions, the output gate."""
