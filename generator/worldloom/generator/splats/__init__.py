"""Frames -> Gaussian splats of the surfaces that are new."""
