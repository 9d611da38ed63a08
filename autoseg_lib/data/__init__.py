"""From folders to cases: find scans, pair them with labels, check, split, feed the network."""
