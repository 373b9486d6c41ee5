"""A route's rows from files, all of them checked up front, and the cache of what encoders make of them."""

from __future__ import annotations

from danceopd.data.buckets import buckets, nearest_bucket
from danceopd.data.cache import TensorCache
from danceopd.data.check import check_masks, check_rows, check_targets
from danceopd.data.content import ImageContent, RowContent, row_content, rows_fingerprint
from danceopd.data.errors import DataError, listed
from danceopd.data.images import image_size, load_image
from danceopd.data.keys import content_key, weight_files, weights_fingerprint
from danceopd.data.rows import Rows, load_rows
from danceopd.data.sheets import read_sheet
from danceopd.data.splits import open_split

__all__ = [
    "DataError",
    "ImageContent",
    "RowContent",
    "Rows",
    "TensorCache",
    "buckets",
    "check_masks",
    "check_rows",
    "check_targets",
    "content_key",
    "image_size",
    "listed",
    "load_image",
    "load_rows",
    "nearest_bucket",
    "open_split",
    "read_sheet",
    "row_content",
    "rows_fingerprint",
    "weight_files",
    "weights_fingerprint",
]
