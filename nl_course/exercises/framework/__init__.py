"""How an exercise is written, checked and shown."""
