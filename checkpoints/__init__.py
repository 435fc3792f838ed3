"""Checkpoint series: found, ordered, checked, loaded. Importing this imports no torch.

How a checkpoint goes through it, room by room:

    files       a folder's weight and tokenizer files, headers, hashes, limits: what is there, is it whole
    series      folders, manifests or hub revisions -> Series of Checkpoint, in order       `open_series`
    tokenizers  what a tokenizer does, and what tells it from another
    audit       is the series what it says it is? nothing is loaded
    loading     files -> model ready for hooks, one after the other in one memory           `Series.models`
    model       the parts of a decoder by what they compute: projections, norms, layers     `anatomy`
    results     what every result shares: folders on disk, strict JSON
    stats       what every sentence rests on: units, bootstrap, permutation, false discovery

A `Placement` (device, dtype, attention, device map) goes unchanged from the caller to the loader. `Checkpoint.load` and
`Series.models` are the two doors through which a lower room opens a higher one.
"""

from checkpoints.former import attach_face

__getattr__, __dir__, __all__ = attach_face(__name__, __file__)
