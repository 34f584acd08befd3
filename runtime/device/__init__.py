"""The GPU as the TensorRT backend uses it. Nothing here touches CUDA, or needs a driver, when it is imported."""
