"""What prepare.py is made of: fetching and unpacking archives, converting labels, checking a whole data set."""
