"""What is done to a network's answer before it is measured: small steps, kept as data."""
