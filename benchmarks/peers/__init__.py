"""What others would do with the same data and time, written as their examples do it."""
