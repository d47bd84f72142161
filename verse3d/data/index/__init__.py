"""From folders and archives to an index of cases: find, name, merge, correct, divide."""
