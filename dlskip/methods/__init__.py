"""Every method that is compared: one file each, and one name in names.py."""
