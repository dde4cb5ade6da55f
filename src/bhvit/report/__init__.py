"""The HTML report about a run and its packed file."""
