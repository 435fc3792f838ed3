"""Forward passes of an unmodified model, with what it wrote and read kept; of latent attention (MLA) too."""
