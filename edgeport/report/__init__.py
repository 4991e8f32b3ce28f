"""The verdict for people and programs."""
