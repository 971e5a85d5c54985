//! The engine as its shell sees it: records in, effects and stored fields out.

mod constructs;
mod world;
