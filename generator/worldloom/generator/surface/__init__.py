"""Depth maps -> one surface: truncated signed distances, a mesh, a collider that physics can use.

Reading order: depthmaps, fusion, contour, tidy, compare. The invariant: nothing is invented where
no camera looked, and every face points to the free space in front of it.
"""
