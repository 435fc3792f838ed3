"""Needle in a haystack as a grid: answer NLL over length and depth, distance and interference."""
