"""The training loop, its monitor and its run folder."""
