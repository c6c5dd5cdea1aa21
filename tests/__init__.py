"""Tests, in the folders of what they test; those in ``whole`` are of several, or of what surrounds the package."""

import pathlib

#: The clone that they lie in.
REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
