"""Splats, meshes and cameras -> USD layers that Isaac Sim, PhysX and the validators accept.

Reading order: authoring, splat_layer, points_layer, collider_layer, visual_layer, cameras_layer,
read, then validate and its rules. Every layer is byte-deterministic: files are named by content.
"""
