"""One photo -> metric depth of every pixel, a flat floor, and which way is up.

Reading order: model (the seam), tcmono and prior (two models), layout (horizon, floor, sky),
metric (affine inverse depth -> metres), floor (the plane and what stands on it), supplied (a depth
map that the user gives), compare (errors against a known truth). The one invariant: floor pixels
lie on the plane exactly and nothing lies below it.
"""
