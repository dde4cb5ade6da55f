"""The command line: one module a verb, each small, over the public names."""
