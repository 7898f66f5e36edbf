"""What a decoder did with one prompt, token by token: `explain`, and what it gives as table, picture and page."""

from .explanation import Explanation, Step, explain
from .places import Grid, image_grid

__all__ = ["Explanation", "Grid", "Step", "explain", "image_grid"]
