"""Channel rules: how each Keras layer passes channels on, one module per kind of layer."""
