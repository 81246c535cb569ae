"""The eye: splats and meshes -> pictures and depth, on any CPU, or through gsplat on a GPU.

`rasterise` draws Gaussian splats, `zbuffer` draws triangles. Both take OpenCV cameras with pixel
centres at +0.5 and return arrays with row 0 at the top.
"""
