"""USFM on Ray: the science, importable without Ray, a GPU or a network."""

__version__ = "0.1.0"
