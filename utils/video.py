"""Videos: frames that are read, and files that frames are written to."""

import contextlib
import errno

import cv2

from utils import quiet
from utils.config import UserError


def read_frames(video, count):
    """Yield lists of `count` frames (h, w, 3) RGB of an open video; the last may be shorter."""
    frames = []
    while True:
        with quiet.decoding():
            there, frame = video.read()
        if not there:
            break
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        if len(frames) == count:
            yield frames
            frames = []
    if frames:
        yield frames


@contextlib.contextmanager
def open_video(path, rate, size):
    """Open an MP4 file to write frames to; OSError if it is not whole in the end."""
    with quiet.decoding():
        sink = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*'mp4v'), rate, size)
    if not sink.isOpened():
        raise UserError(
            'this OpenCV cannot write MP4 video, or not there; '
            'predict pictures of the frames instead'
        )
    try:
        yield sink
    finally:
        with quiet.decoding():
            sink.release()
    with quiet.decoding():  # OpenCV does not tell that a disk is full
        is_whole = cv2.VideoCapture(path).isOpened()
    if not is_whole:
        raise OSError(errno.ENOSPC, 'the video could not be written; is the disk full?', path)
