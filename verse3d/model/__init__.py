"""Networks, modes and checkpoints."""
