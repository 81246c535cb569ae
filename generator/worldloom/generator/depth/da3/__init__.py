"""Depth Anything 3: views, with or without cameras -> depth, cameras and Gaussian splats.

Weight-compatible code of our own (spec reconstruction 2). Reading order: variants (sizes), vit (the
backbone), cameras (pose tokens in and out), dpt (the trunk of all heads), dual_dpt, metric_head and
gs_head (the heads), ray_poses (cameras of ray maps), network (one whole network), nested (metres
from a second network), preprocess (pictures in), keys and load (public weights in), adapter (raw
numbers -> Gaussians), align (predicted cameras -> given world), depth_model (Lyra's seam), lifter
and window_lifter (splats of a chunk's frames), single (one photo), sizes (memory, counted). The one
invariant: released weights meet the arithmetic that they were trained with, its oddities included;
what is saner stands behind a flag.
"""
