"""What is found, as values (kind, numbers, basis), and the one place where each kind is put into words."""
