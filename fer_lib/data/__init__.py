"""Datasets of faces: readers of every layout, splits, the audit, and drawn sample data."""

from fer_lib.data.faceset import FaceSet
from fer_lib.data.loading import load_faces
