"""One file per verb; `assemble` builds the real thing."""
