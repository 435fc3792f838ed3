"""Multi-head latent attention in the terms of plain projections."""
