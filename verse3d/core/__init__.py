"""Values that everything else is made of: labels, geometries, volumes, configs, errors."""
