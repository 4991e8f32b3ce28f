"""Who is wrong: every file of a finished build, layer by layer, against the float network in PyTorch."""
