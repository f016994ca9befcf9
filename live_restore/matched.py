"""Matched low- and high-dose volumes."""
