"""Packed models over HTTP: the Open Inference Protocol, pictures, metrics. Needs the extra `serve`."""
