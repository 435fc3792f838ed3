"""A circuit along a series: when it forms, when it changes, what comes and goes."""
