"""Data to learn on: planar laws, handwritten digits, images of a folder."""

from .digits import Digits, digits
from .folder import image_folder
from .images import ImageLoader, Images, to_bytes, to_floats
from .mnist import mnist
from .planar import checkerboard, eight_gaussians, swiss_roll, two_moons

__all__ = [
    "Digits",
    "ImageLoader",
    "Images",
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
