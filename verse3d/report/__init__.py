"""Pictures and files for viewers."""
