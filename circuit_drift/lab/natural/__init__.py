"""A series trained on natural text: public-domain documents, with needle documents and lists in the mix.

The way of a token: `texts` reads the documents, `tokens` cuts them with a byte-pair tokenizer of the series' own,
`retrieval` writes the needle documents and lists, `rows` packs all of them into rows with weights, `train` takes steps,
`build` writes checkpoints and everything measured on them. `recipe` holds every number.
"""
