"""Watching: a page for the browser, napari layers, a table for the terminal; all of them ordinary clients."""
