"""Built-in objectives, one file each; they depend on the engine, the engine never on them."""
