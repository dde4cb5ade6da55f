"""Pages that run packed models in the browser."""

from .single_file import single_file
from .site import site_files, write_site

__all__ = ["single_file", "site_files", "write_site"]
