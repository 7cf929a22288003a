"""What a user must never read: the words of the libraries that check values."""

import re

# pydantic's standard messages, by what they have in common.
RAW_WORDS = re.compile(
    r"Input should|inputs? (is|are) not permitted|Field required|should (have|be|match)|Value error|unable to parse|"
    r"pydantic|validation error|Assertion failed"
)
