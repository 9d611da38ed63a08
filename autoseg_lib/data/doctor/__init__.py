"""The data doctor: every fault that would cost a night of training is found first, all at once, with a remedy."""
