"""One case is read once, and everything is measured and checked on the way. Nothing here imports PyTorch."""
