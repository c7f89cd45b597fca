"""report.html: the results of a study as one page, with plots that need no network."""

from .figures import add_figures
from .page import write_index, write_page

__all__ = ["add_figures", "write_index", "write_page"]
