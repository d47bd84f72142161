"""Scores of masks, and comparisons of what made them: computed here, drawn in ``report``."""
