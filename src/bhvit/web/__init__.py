"""A static site that runs packed models in the browser."""

from .site import write_site

__all__ = ["write_site"]
