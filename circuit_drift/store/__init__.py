"""Results kept on disk: found again by what they were computed from, written by many processes at once."""
