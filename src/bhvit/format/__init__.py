"""The `.bhv` file: the program of ops, its arithmetic, how floats are stored, reading and writing."""
