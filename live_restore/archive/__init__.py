"""Restores whole archives: one volume a task, here or on a Dask cluster, going on where it stopped."""
