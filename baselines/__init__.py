"""The networks that EMANet is measured against, one file a paper. A head takes the trunk's maps and returns a dict with 'out'."""
