"""Rules that turn Keras layers into the nodes that bounds are computed on."""
