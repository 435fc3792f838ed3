"""The files of a checkpoint: which there are, whether they are whole, what they hash to, whether two models compare."""
