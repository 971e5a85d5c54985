//! Which of our own settings count for a task: those of the calls of functions that led to it, the outermost first, then
//! its own, then the document's.

use millrace_dsl::model::Settings;

use crate::frame::{Body, Frame, FrameId};
use crate::plan::{NodeId, Plan};
use crate::state::Instance;

/// The setting that counts for the task of a frame, and the frame of the call it is from, if it is from one.
pub(crate) fn of_frame<'p, T: ?Sized>(
    instance: &Instance,
    plan: &'p Plan,
    frame: &Frame,
    read: impl Fn(&'p Settings) -> Option<&'p T>,
) -> Option<(&'p T, Option<FrameId>)> {
    of_task(instance, plan, frame.node, frame.parent, read)
}

/// The same for a task below a frame, which need not have one of its own.
pub(crate) fn of_task<'p, T: ?Sized>(
    instance: &Instance,
    plan: &'p Plan,
    node: NodeId,
    parent: Option<FrameId>,
    read: impl Fn(&'p Settings) -> Option<&'p T>,
) -> Option<(&'p T, Option<FrameId>)> {
    let own = |node: NodeId| plan.node(node).and_then(|n| read(&n.settings));
    let mut found = own(node).map(|s| (s, None));
    let (mut below, mut next) = (node, parent);
    while let Some((id, parent)) = next.and_then(|id| Some((id, instance.frame(id)?))) {
        match &parent.body {
            Body::Inline(_) => found = own(parent.node).map(|s| (s, Some(id))).or(found),
            Body::Extended(_) if parent.node == below => {}
            _ => break,
        }
        (below, next) = (parent.node, parent.parent);
    }
    found.or_else(|| read(&plan.document.settings).map(|s| (s, None)))
}
