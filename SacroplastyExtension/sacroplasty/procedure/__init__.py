"""The procedure as its user lives it: what devices report comes in, decisions and their journal go out."""
