"""From points along a spine to named vertebrae: pure functions on points and scores, without any network."""
