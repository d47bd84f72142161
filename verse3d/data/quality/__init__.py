"""What is in a case, measured once, and what is wrong with it."""
