"""What commands print: a pair on one screen, and tables as JSON or CSV for other programs."""
