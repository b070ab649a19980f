"""Data to learn on: planar laws, handwritten digits, images of a folder; what data may be."""

from .._core.arrays import DataLike, SupportsArray
from .digits import Digits, digits
from .folder import image_folder
from .images import ImageLoader, Images, to_bytes, to_floats
from .mnist import mnist
from .planar import checkerboard, eight_gaussians, swiss_roll, two_moons

__all__ = [
    "DataLike",
    "Digits",
    "ImageLoader",
    "Images",
    "SupportsArray",
    "checkerboard",
    "digits",
    "eight_gaussians",
    "image_folder",
    "mnist",
    "swiss_roll",
    "to_bytes",
    "to_floats",
    "two_moons",
]
