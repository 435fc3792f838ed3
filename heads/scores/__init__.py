"""Scores of heads as values, the names of heads, and how alike two rankings are; numpy only."""
