//! Skeleton.
use crate::failure::Outcome;
pub(super) async fn run(_args: crate::args::BenchArgs, _client: &crate::client::Client) -> Outcome {
    Ok(())
}
