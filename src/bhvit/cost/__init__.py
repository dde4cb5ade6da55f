"""What a model costs: parameters, operations, bytes and estimated energy."""
