"""Running a packed model: `session` (native, fast) and `reference` (NumPy, readable). No PyTorch."""
