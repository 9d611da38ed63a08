"""Random changes of training images; each sample's changes depend only on (seed, epoch, index)."""
