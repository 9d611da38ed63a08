"""The findings: one small function each over the facts of one pass; ``data/doctor/table.py`` lists them."""
