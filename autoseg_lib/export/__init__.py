"""Writes results: run folder, tables, masks, animation, report."""
