"""A figure that a notebook shows by itself. Imported when a picture is drawn, never before."""

from __future__ import annotations

from io import BytesIO

from matplotlib.figure import Figure

__all__ = ["ShownFigure"]


class ShownFigure(Figure):
    """Matplotlib's figure, with the picture that notebooks ask an object for.

    They know Matplotlib's figures only once ``matplotlib.pyplot`` was imported, which nothing here
    does; until then the last line of a cell would show the words ``<Figure size ...>``.

    Example:
        >>> ShownFigure(figsize=(1, 1))._repr_png_()[1:4]
        b'PNG'
    """

    def _repr_png_(self) -> bytes:
        file = BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()
