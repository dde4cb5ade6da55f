"""Fused layers for training on a CPU, computed by native kernels."""
