"""The lines and stages in which a run was trained."""
