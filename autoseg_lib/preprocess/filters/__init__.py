"""Filters whose answers become further channels of the network; one family a file, listed in ``table``."""
