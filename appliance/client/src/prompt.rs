//! Attributes for answers that must not wait for an OST: the kernel holds a directory locked until a LOOKUP, CREATE or LINK
//! is answered, and whatever needs that directory waits, where it cannot be killed.
//!
//! Objects are asked for [`PATIENCE`]. If they do not answer, the size is the MDT's copy, nothing may be cached, and for
//! [`SLOW_FOR`] nobody waits for these OSTs again who must not.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use sheen_ports::Cancel;
use sheen_types::{Attributes, Errno, FileKind, OstIndex, Tick};

use crate::{
    attributes::{Caching, Observed},
    client::Client,
    inode::Inode,
};

/// Longest wait for objects. A disk under load answers sooner.
const PATIENCE: Duration = Duration::from_millis(50);
/// How long an OST that did not answer in time is not asked.
const SLOW_FOR: Duration = Duration::from_secs(1);

/// OSTs that did not answer in time, and until when they are not waited for. Bound: one entry for each OST.
#[derive(Debug, Default)]
pub(crate) struct SlowTargets(Mutex<BTreeMap<OstIndex, Tick>>);

impl SlowTargets {
    fn has_any(&self, targets: impl IntoIterator<Item = OstIndex>, now: Tick) -> bool {
        let slow = self.0.lock().expect("no panic while locked");
        targets.into_iter().any(|ost| slow.get(&ost).is_some_and(|until| now < *until))
    }

    fn note(&self, targets: impl IntoIterator<Item = OstIndex>, until: Tick) {
        let mut slow = self.0.lock().expect("no panic while locked");
        slow.extend(targets.into_iter().map(|ost| (ost, until)));
    }

    /// The OST answers.
    pub(crate) fn forget(&self, target: OstIndex) {
        self.0.lock().expect("no panic while locked").remove(&target);
    }
}

impl Client {
    /// As [`Client::complete`], but returns the MDT's copy when objects do not answer soon, or the caller was killed: what
    /// it made or linked is there, and the kernel is to know.
    pub(crate) fn complete_soon(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        attributes: Attributes,
        caching: Caching,
        cancel: &Cancel,
    ) -> Result<Observed, Errno> {
        let asks = attributes.kind == FileKind::Regular && !inode.lock().is_size_known();
        if !asks {
            return self.complete(inode, attributes, caching, cancel);
        }
        let unsized_copy = Observed { attributes, caching: Caching::Never, is_complete: false };
        let now = self.clock.now();
        if self.slow_targets.has_any(inode.lock().targets(), now) {
            return Ok(unsized_copy);
        }
        let soon = Cancel::new();
        let caller_left = soon.clone();
        let _watch = cancel.on_cancel(Arc::new(move || caller_left.cancel()));
        if cancel.is_cancelled() {
            return Ok(unsized_copy);
        }
        self.finisher.cancel_at(now.after(PATIENCE), soon.clone());
        match self.complete(inode, attributes, caching, &soon) {
            Err(Errno::EINTR) => {
                if !cancel.is_cancelled() {
                    let until = self.clock.now().after(SLOW_FOR);
                    self.slow_targets.note(inode.lock().targets(), until);
                }
                Ok(unsized_copy)
            }
            completed => completed,
        }
    }
}
