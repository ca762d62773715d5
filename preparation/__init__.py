"""Getting data sets and trunk weights ready: sources, download, conversion, checks."""
