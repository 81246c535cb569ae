"""Keyframes that disagree -> keyframes that agree: one joint correction of cameras and depth.

Reading order: `field`, `points`, `match`, `pairs`, `normal`, `solve`, `align`. A generated frame
has a camera that is nearly the commanded one and a depth map whose errors are smooth; patches that
are seen again in other frames tell both apart. The invariant: frames that agree already are not
moved.
"""
