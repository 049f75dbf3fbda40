"""The training engine: the loop, its checkpoints, the losses, and one stage of the pipeline."""
