"""INT8 variants of a bundle, held to the accuracy and the speed of what they would replace."""
