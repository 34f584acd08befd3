"""MTCNN face detection and the 48x48 crops of the visual tower, in ONNX Runtime and numpy."""

from mmx.runtime.media.faces.detector import Face, FaceCrop, FaceDetector

__all__ = ["Face", "FaceCrop", "FaceDetector"]
