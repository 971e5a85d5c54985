//! JSON Schemas of `input`, `output` and `export`.
