"""verse3d: native 3D segmentation of vertebrae in CT."""

from verse3d.version import __version__

__all__ = ["__version__"]
