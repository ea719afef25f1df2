"""GPT-NeoX: architecture, token loader, training loop, checkpoints, generation; runs without Ray."""
