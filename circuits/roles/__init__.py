"""What each head does for a fact: where it reads what it writes towards the answer."""
