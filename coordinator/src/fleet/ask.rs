//! "Is this step still open, and what did it save?" Answered from the stored state, by any coordinator: a step that is
//! open there may be run, since its result decides.

use std::collections::HashMap;

use millrace_common::{AskReply, AskRequest, names, partition_of};
use millrace_engine::Instance;

use crate::registry::{Definitions, Store};

const CLOSED: AskReply = AskReply {
    open: false,
    progress: None,
};

/// Reads the instance and looks the step up.
pub(super) async fn answer(
    store: &Store,
    definitions: &Definitions,
    partitions: u16,
    request: &AskRequest,
) -> anyhow::Result<AskReply> {
    let partition = partition_of(&request.instance, partitions);
    let mut read = redis::cmd("HGETALL");
    read.arg(names::instance_key(partition, &request.instance));
    let fields: HashMap<Vec<u8>, Vec<u8>> = store.query(&read).await?;
    if fields.is_empty() {
        return Ok(CLOSED);
    }
    let instance = Instance::load(request.instance.clone(), fields)?;
    if instance.is_ended() {
        return Ok(CLOSED);
    }
    let Some(plan) = definitions.load(instance.definition()).await? else {
        return Ok(CLOSED);
    };
    Ok(match instance.step(&plan, request.frame) {
        Some(step) if step.step == request.step => AskReply {
            open: true,
            progress: step.progress,
        },
        _ => CLOSED,
    })
}
