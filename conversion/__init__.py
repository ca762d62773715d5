"""Checkpoints, whoever made them: names of tensors, families of code, what a file tells."""
