"""Demo vocabulary, scenes and checkpoints."""
