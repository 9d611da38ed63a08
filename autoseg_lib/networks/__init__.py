"""U-Nets by name, and the single file a trained one is kept in."""
