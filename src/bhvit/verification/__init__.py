"""Comparing PyTorch, the NumPy reference and the native engine, op by op."""
