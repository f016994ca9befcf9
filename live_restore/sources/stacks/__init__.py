"""Reads finished z-stacks: files or folders that hold one or more of them whole."""

from live_restore.sources.stacks.stack import (
    FOLDER_SUFFIXES,
    Stack,
    is_folder_stack,
    open_stack,
    stack_suffix,
    stack_version,
)

__all__ = [
    "FOLDER_SUFFIXES",
    "Stack",
    "is_folder_stack",
    "open_stack",
    "stack_suffix",
    "stack_version",
]
