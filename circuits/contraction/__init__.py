"""Differences times gradients, the product that every gradient method of attribution takes, exact and in small memory.

`gradients` sums what each step's backward pass brings, `mla` does so where heads read through a latent, `contraction`
multiplies the sums with the writers' differences.
"""
