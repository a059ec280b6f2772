"""From records of many formats to a corpus on disk: tokens and loss masks."""
