"""Why two checkpoints differ: which component's weights changed a behaviour, proved by putting them back.

behaviours   one number a prompt: answers of needles, facts, text, a head's attention on the needle
components   the parts of a model whose weights are told apart: heads, KV groups, MLP parts, norms, embeddings
line         the straight line from A to B in the space of weights, and one component's way along it
shares       the share of each component in the change, along that line; taps: one gradient, by hooks
patching     components of B put into A, and of A into B, beside random ones
along        the shares of every interval of a series; course: as a value
explanation  all of it as a value: what putting back did too; its sentences, tables and figures; sections: of a page
"""
