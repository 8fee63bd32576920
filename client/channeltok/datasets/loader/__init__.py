"""Reading token shards for training: what they hold, in which order, and batch by batch."""
