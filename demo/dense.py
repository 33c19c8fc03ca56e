"""Dense truth: what each vision token of a picture should know about the shape that it covers.

A caption tells the vision tower little; asking every token makes it learn many times faster.
"""

import numpy as np
from numpy.typing import NDArray

from demo.captions import COLOURS, DIRECTIONS, KINDS, PLACES, SIZES, Shape
from demo.checkpoint import FACTOR_PX
from demo.scenes import Clip

IGNORE = -100
#: What each vision token has to say about the shape that it covers, and of how many words.
DENSE = {
    "shape": 2,  # whether it covers one at all
    "kind": len(KINDS),
    "colour": len(COLOURS),
    "size": len(SIZES),
    "place": len(PLACES),
    "rank": 3,  # how many shapes come before this one in the caption
    "count": 3,
    "direction": len(DIRECTIONS),
}
COLUMNS = list(DENSE)

Grid = tuple[int, int, int]  # temporal patches, rows, columns of vision tokens


def _covered(grid: Grid, centre: tuple[float, float], radius: float) -> NDArray[np.bool_]:
    """Which vision tokens, (N,), lie on the inner half of a shape; the token of its centre always does."""
    y, x = np.mgrid[: grid[1], : grid[2]].reshape(2, -1) * FACTOR_PX
    dx = np.maximum(np.maximum(x - centre[0], centre[0] - x - FACTOR_PX), 0)
    dy = np.maximum(np.maximum(y - centre[1], centre[1] - y - FACTOR_PX), 0)
    return np.asarray(np.hypot(dx, dy) < 0.5 * radius)


def dense_scene(shapes: tuple[Shape, ...], grid: Grid, scale: tuple[float, float]) -> NDArray[np.int64]:
    """Say for every vision token what it should know.

    Args:
        shapes: in the picture's own pixels.
        grid: of the resized picture.
        scale: (x, y) from the picture to the resized one.

    Returns:
        (1, N, len(DENSE)), columns in the order of DENSE.
    """
    truth = _nothing(grid)
    truth[..., COLUMNS.index("count")] = len(shapes) - 1
    for rank, shape in enumerate(shapes):
        centre = shape.centre_px[0] * scale[0], shape.centre_px[1] * scale[1]
        here = _covered(grid, centre, shape.radius_px * (scale[0] * scale[1]) ** 0.5)
        truth[0, here, :6] = [
            1,
            list(KINDS).index(shape.kind),
            list(COLOURS).index(shape.colour),
            list(SIZES).index(shape.size),
            list(PLACES).index(shape.place),
            rank,
        ]
    return truth


def dense_clip(drawn: Clip, indices: list[int], grid: Grid, scale: tuple[float, float]) -> NDArray[np.int64]:
    """As `dense_scene`, (temporal patches, N, len(DENSE)), with the direction in place of size, place and order."""
    truth = _nothing(grid)
    words = {
        "shape": 1,
        "kind": list(KINDS).index(drawn.kind),
        "colour": list(COLOURS).index(drawn.colour),
        "direction": list(DIRECTIONS).index(drawn.direction),
    }
    for step in range(grid[0]):
        (x0, y0), (x1, y1) = (drawn.centre_px(index) for index in indices[2 * step : 2 * step + 2])
        centre = (x0 + x1) / 2 * scale[0], (y0 + y1) / 2 * scale[1]
        here = _covered(grid, centre, drawn.radius_px * (scale[0] * scale[1]) ** 0.5)
        for name, word in words.items():
            truth[step, here, COLUMNS.index(name)] = word
    return truth


def _nothing(grid: Grid) -> NDArray[np.int64]:
    truth = np.full((grid[0], grid[1] * grid[2], len(DENSE)), IGNORE, dtype=np.int64)
    truth[..., COLUMNS.index("shape")] = 0
    return truth
