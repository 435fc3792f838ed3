"""What changed in the weights themselves, without a prompt: heads' QK and OV maps, and every other component.

reading    the tensors of two checkpoints, layer by layer from their files
maps       products of a head's factors compared, never d x d
change     all of it as a value: verdict, table, map
"""
