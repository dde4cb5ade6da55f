"""Cost of a model: parameters, operations, bytes and estimated energy."""
