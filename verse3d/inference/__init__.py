"""From a CT file to a label file on the same grid."""
