"""Pictures: of samples and their ways, fields and densities, runs, paths, pairs, errors.

All take a :class:`~transportflows.Solution`, tensors or arrays, and return an object of Matplotlib,
``figure.savefig("samples.png")``. Matplotlib (the ``plot`` extra) is imported when a picture is
drawn, never before. Figures are made without pyplot, so nothing of a notebook's is changed; their
background is transparent, with inks that are legible on light and dark, and colours after Okabe
and Ito (2008), which the colour-blind tell apart.
"""

from .callback import SamplePictures
from .curves import epsilon_sweep, history, interpolant, quality_by_calls
from .densities import density, vector_field
from .heat import heat_map
from .joint import calibration, coupling, pairs
from .moving import animate, strip, trajectories
from .pictures import images, picture, samples

__all__ = [
    "SamplePictures",
    "animate",
    "calibration",
    "coupling",
    "density",
    "epsilon_sweep",
    "heat_map",
    "history",
    "images",
    "interpolant",
    "pairs",
    "picture",
    "quality_by_calls",
    "samples",
    "strip",
    "trajectories",
    "vector_field",
]
