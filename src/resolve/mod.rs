//! Names to addresses, asked from the egress address and nowhere else.
