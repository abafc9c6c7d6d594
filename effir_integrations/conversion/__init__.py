"""Write an encoder in the formats of other engines."""
