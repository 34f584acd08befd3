"""A drawn face that MTCNN finds."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


def picture(number: int) -> np.ndarray:
    """uint8 [120, 160, 3]; the ground changes with the number."""
    image = Image.new("RGB", (160, 120), (90 + number, 110, 140))
    draw = ImageDraw.Draw(image)
    draw.ellipse((45, 10, 115, 110), fill=(224, 172, 140))
    draw.pieslice((43, 4, 117, 70), 180, 360, fill=(60, 40, 30))
    for x in (63, 97):
        draw.ellipse((x - 9, 45, x + 9, 56), fill=(250, 250, 250))
        draw.ellipse((x - 4, 46, x + 4, 55), fill=(40, 30, 20))
        draw.line((x - 11, 40, x + 11, 38), fill=(50, 30, 20), width=3)
    draw.polygon([(80, 52), (74, 74), (86, 74)], fill=(200, 145, 115))
    draw.ellipse((64, 84, 96, 94), fill=(170, 60, 60))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(1.2)))
