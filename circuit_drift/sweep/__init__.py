"""Every measure of every checkpoint of a series: from the store where it is there, computed where it is missing."""
