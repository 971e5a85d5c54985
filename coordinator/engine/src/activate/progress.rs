//! Values that handlers saved: they outlive the attempt that saved them.

use millrace_common::RawJson;

use crate::frame::{Body, FrameId, Parts};
use crate::ids::Path;

use super::Activation;

impl Activation<'_> {
    /// A step failed: its saved progress goes to the innermost `try` around, or to the workflow, for the next attempt.
    pub(crate) fn keep_progress(&mut self, id: FrameId) {
        let Some(frame) = self.instance.frame(id) else {
            return;
        };
        let Body::Step(step) = &frame.body else { return };
        let Some(progress) = step.progress.clone() else {
            return;
        };
        let path = frame.path;
        let mut next = frame.parent;
        while let Some(at) = next {
            let Some(frame) = self.instance.frame(at) else {
                return;
            };
            next = frame.parent;
            let keeps = matches!(frame.body, Body::Try(_)) || next.is_none();
            if keeps && let Some(frame) = self.instance.edit(at, Parts::STATE) {
                frame.kept.insert(path.0, progress);
                return;
            }
        }
    }

    /// A `try` caught an error: all progress below it becomes its own.
    pub(crate) fn gather_progress(&mut self, id: FrameId) {
        let mut found: Vec<(u64, RawJson)> = Vec::new();
        for frame in self.below(id).into_iter().filter_map(|f| self.instance.frame(f)) {
            found.extend(frame.kept.iter().map(|(path, v)| (*path, v.clone())));
            if let Body::Step(step) = &frame.body {
                found.extend(step.progress.clone().map(|p| (frame.path.0, p)));
            }
        }
        if !found.is_empty()
            && let Some(frame) = self.instance.edit(id, Parts::STATE)
        {
            frame.kept.extend(found);
        }
    }

    /// Progress of an earlier attempt of the same task.
    pub(crate) fn take_progress(&mut self, from: FrameId, path: Path) -> Option<RawJson> {
        let mut next = Some(from);
        while let Some(at) = next {
            let frame = self.instance.frame(at)?;
            if frame.kept.contains_key(&path.0) {
                return self.instance.edit(at, Parts::STATE)?.kept.remove(&path.0);
            }
            next = frame.parent;
        }
        None
    }
}
