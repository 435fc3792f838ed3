"""What changed in the weights themselves, without a prompt: heads' QK and OV maps, and every other component.

reading    the tensors of two checkpoints, layer by layer from their files
maps       products of a head's factors compared, never d x d
stored     what is found of two checkpoints, kept in the store
change     all of it as a value: verdict, table, map
"""
