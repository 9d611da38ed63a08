"""How well two masks agree."""
