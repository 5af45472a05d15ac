//! What an address is: forbidden, private or global, from the special-purpose registries.
