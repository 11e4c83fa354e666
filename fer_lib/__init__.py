"""Facial expression recognition on FER2013: models, data, the training loop and its evaluation.

Importing the package is cheap on purpose: torch, timm and transformers load with the modules that
need them.
"""

__version__ = "0.1.0"
