"""What each Keras layer does to intervals and to linear bounds."""
