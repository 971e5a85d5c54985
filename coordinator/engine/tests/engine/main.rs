//! The engine as its shell sees it: records in, effects and stored fields out.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]
#![allow(clippy::cast_possible_truncation, reason = "small numbers drawn by chance")]
#![allow(clippy::print_stdout, reason = "measurements are printed")]
#![allow(clippy::disallowed_types, reason = "time is measured here")]

mod children;
mod constructs;
mod decisions;
mod detached;
mod events;
mod extensions;
mod late;
mod laws;
mod limits;
mod operators;
mod parallel;
mod properties;
mod rules;
mod sagas;
mod scale;
mod schedules;
mod settings;
mod steps;
mod storage;
mod world;
