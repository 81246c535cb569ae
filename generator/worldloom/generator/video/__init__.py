"""Frame models: what a camera would see next.

`frame` is the value they all make. `preview` needs no weights: it draws on the memory and fills
the rest from a backdrop (`backdrop`, `texture`, `fill`).
"""
