"""Models from and to other programs: Keras, PyTorch, bioimage.io."""
