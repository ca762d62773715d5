"""Where the files of data sets lie, what is in them, and how training samples are made of them."""
