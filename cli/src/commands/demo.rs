//! Skeleton.
use crate::failure::Outcome;
pub(super) async fn run(_args: &crate::args::DemoArgs) -> Outcome {
    Ok(())
}
