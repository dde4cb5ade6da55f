"""Pictures to run a model on, from files, archives, videos, cameras and addresses.

`open_inputs` turns what a user names into `Inputs`, an iterable of `Picture`s; each is decoded when it is needed, by
whichever thread runs it. One file for each kind of source.
"""

from .open import Inputs, Source, open_inputs
from .picture import Failed, Part, Picture

__all__ = ["Failed", "Inputs", "Part", "Picture", "Source", "open_inputs"]
