"""Compares folders of masks: predictions with references, or two readers."""
