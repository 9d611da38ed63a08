"""From a scan and a model to label values on the scan's own grid."""
