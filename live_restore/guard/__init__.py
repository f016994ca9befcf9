"""Trust: how much light a volume had, how far its restoration is from the truth, and what to do."""
