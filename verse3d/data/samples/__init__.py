"""Cases prepared for training: carried to the network grid once, kept on disk, and read in pieces. Loads no PyTorch."""
