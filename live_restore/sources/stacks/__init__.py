"""Reads finished z-stacks: files that hold one or more of them whole."""

from live_restore.sources.stacks.stack import Stack, open_stack, stack_suffix

__all__ = ["Stack", "open_stack", "stack_suffix"]
