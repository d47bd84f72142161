"""What runs a network on windows (boxes or slices): PyTorch, or OpenVINO where it is installed and right."""

from verse3d.inference.backends.base import Backend
from verse3d.inference.backends.choose import BACKENDS, BackendName, network_of, open_backend
from verse3d.inference.backends.pytorch import TorchBackend, torch_backend

__all__ = ["BACKENDS", "Backend", "BackendName", "TorchBackend", "network_of", "open_backend", "torch_backend"]
