"""What answers: the live bundles, and the one thread that runs forward passes in batches."""
