"""The anatomy of a decoder: where its parts are, under which attention it runs, and TransformerLens' names for them."""
