"""What differs between databases: one file each, behind :class:`.base.Session`."""
