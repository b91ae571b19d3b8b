"""Where windows stand that cover a long side."""


def starts(length: int, window: int, overlap: float) -> list[int]:
    """Where windows begin that each repeat a share `overlap` of their neighbour, or more.

    They are evenly spread; the last one ends with the side. A side that is no longer than the window has one.
    """
    if length <= window:
        return [0]
    steps = -(-(length - window) // max(1, int(window * (1 - overlap))))
    return [round(step * (length - window) / steps) for step in range(steps + 1)]
