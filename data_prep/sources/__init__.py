"""Where pages come from: one module per file format, each yielding plain records in bounded memory."""
