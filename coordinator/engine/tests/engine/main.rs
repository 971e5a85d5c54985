//! The engine as its shell sees it: records in, effects and stored fields out.

mod children;
mod constructs;
mod decisions;
mod operators;
mod properties;
mod rules;
mod scale;
mod steps;
mod storage;
mod world;
