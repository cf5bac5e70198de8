"""Builds the module `layer` against the fastbp that is installed: `pip install --no-build-isolation .` in here."""

from Cython.Build import cythonize
from setuptools import setup

setup(name="layer", version="0", ext_modules=cythonize("layer.pyx", language_level=3))
