"""Where models and bundles live: the store, its files, manifests and the pointer to what is live."""
