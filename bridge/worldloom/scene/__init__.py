"""The vocabulary: cameras, requests, splats, meshes and manifests, in numpy alone.

Everything else in worldloom imports this package and it imports nothing of ours, so that the
extension inside Kit, the server, the generator and the tasks all speak of the same things.
Reading order: errors, limits, frame, cameras, path, request, splats, mesh, manifest, worldfile.
"""
