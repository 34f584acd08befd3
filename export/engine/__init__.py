"""Building TensorRT engines, for any supported GPU and without one."""
