"""Live restoration of fluorescence z-stacks while they are acquired."""

__version__ = "0.1.0"
