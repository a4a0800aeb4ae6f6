"""One file per verb; `assemble` and `assemble_supplier` build the real thing."""
