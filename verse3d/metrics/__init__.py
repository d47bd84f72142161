"""Pure functions that score label maps, in millimetres and millilitres."""
