"""Numbers fitted to a checkpoint: the rerank probe and the threshold of unsure captions."""
