"""COCO's panoptic JSON: which segment ids of a PNG have which category."""

import json
import os

import numpy as np

from utils.config import UserError


def read_panoptic(path):
    """Return {image name: (sorted segment ids, label value of each)} of a COCO panoptic JSON.

    A segment's value is its category's id, or 0 for things; 255 is what belongs to no segment.
    """
    try:
        with open(path, encoding='utf-8') as f:
            content = json.load(f)
        is_thing = {category['id']: category['isthing'] for category in content['categories']}
        segments = {}
        for annotation in content['annotations']:
            ids, raw = [0], [255]
            for segment in annotation['segments_info']:
                category = segment['category_id']
                ids.append(segment['id'])
                raw.append(0 if is_thing[category] else category)
            file = annotation['file_name']
            check_numbers(file, ids, 2**24)
            check_numbers(file, raw, 256)
            if len(set(ids)) < len(ids):
                raise ValueError(f'{file} has two segments of one id')
            if os.path.splitext(file)[0] in segments:
                raise ValueError(f'{file} has two entries')
            ids, raw = np.array(ids, np.uint32), np.array(raw, np.uint8)
            order = ids.argsort()
            segments[os.path.splitext(file)[0]] = ids[order], raw[order]
        return segments
    except FileNotFoundError:
        raise
    except Exception as e:  # its types may be any, and nested too deep
        raise UserError(
            f'{path}: this is no panoptic JSON of COCO, or only part of one '
            f'({type(e).__name__}: {str(e)[:200]}); unpack it again'
        ) from None


def check_numbers(file, ids, end):
    """Raise ValueError unless all ids of the segments of a file are integers from 0 to end - 1."""
    for number in ids:
        if type(number) is not int or not 0 <= number < end:
            raise ValueError(f'{file} has the id {number}, not one from 0 to {end - 1}')
