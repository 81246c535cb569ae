"""How a world is compared with its truth: within the piece that the truth describes."""

import numpy as np
import pytest

from worldloom.scene.mesh import TriMesh
from worldloom.tasks.truthdrive import _within


def test_a_world_that_goes_on_is_cut_to_the_piece_that_the_truth_describes():
    # Two large triangles, as a simplified floor has them: the cut runs through both.
    corners = np.array([[-10, -10, 0], [10, -10, 0], [10, 10, 0], [-10, 10, 0]], np.float32)
    street = TriMesh(corners, np.array([[0, 1, 2], [0, 2, 3]], np.int32))
    piece = _within(street, np.array([[-1.0, -2.0, 5.0], [3.0, 2.0, 6.0]], np.float32))
    assert piece.areas().sum() == pytest.approx(16.0, rel=1e-6)
    assert piece.extent()[:, :2].tolist() == [[-1.0, -2.0], [3.0, 2.0]]
    assert (piece.normals()[:, 2] == 1).all()
    nothing = _within(street, np.array([[20.0, 20.0, 0.0], [30.0, 30.0, 1.0]], np.float32))
    assert len(nothing.faces) == 0
