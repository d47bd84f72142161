"""From folders of scans to checked cases and prepared patches."""
