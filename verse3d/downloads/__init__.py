"""Fetching the archives of VerSe, on request only."""
