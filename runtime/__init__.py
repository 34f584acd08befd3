"""From a media file to emotions, with numpy, PyAV, SentencePiece and an inference engine. No torch."""
