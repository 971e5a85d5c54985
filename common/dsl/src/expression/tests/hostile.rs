//! Hostile expressions.
