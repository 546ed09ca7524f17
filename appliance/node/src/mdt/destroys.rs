//! Objects of removed files: handed to their OSTs, and struck off the list in the state when they are gone.
//!
//! The list is replicated and as long as it must be: removing a file always works. What is under way is a bounded window
//! over it, per OST [`JOBS_MAX`] jobs of up to [`DESTROY_OBJECTS_MAX`] objects that the OST carries out side by side; a
//! step costs what it takes, not what is listed. An OST with more listed than its part of
//! [`super::MdtLimits::destroys_pending_max`] is *behind*: it gets no new objects before it has caught up by an eighth of
//! that. Creates wait only while every OST that would take them is behind. So the list is never longer than that bound and what the files of the
//! moment have, and an OST that does not come back keeps no file from being made elsewhere.

use std::collections::BTreeSet;

use sheen_meta::{Operation, operation::ObjectsDestroyed};
use sheen_types::{Fid, OstIndex};
use sheen_wire::fields::List;

use super::{
    background::Job,
    core::Mdt,
    gateway::{DESTROY_OBJECTS_MAX, OstJob},
    mutation::Task,
};

/// Jobs on their way to one OST. While it makes one durable, the next are told to it, and the log takes the ends of others.
const JOBS_MAX: usize = 4;

/// What an OST is destroying.
#[derive(Debug, Default)]
pub(crate) struct DestroyWindow {
    /// Objects listed behind this one are taken next.
    after: Fid,
    /// Objects on their way, until they are off the list.
    pub under_way: BTreeSet<Fid>,
    jobs: usize,
}

impl Mdt {
    /// Fills the windows of OSTs that have something to destroy.
    pub(crate) fn destroy_objects(&mut self) {
        while let Some(ost) = self.background.destroys_due.pop_first() {
            if self.unsettled.is_at(ost) {
                // Due again when it is not: what it still carries out may make an object anew.
                continue;
            }
            while let Some(objects) = self.next_destroys(ost) {
                self.submit_ost(OstJob::Destroy { ost, objects }, Job::Destroy { ost });
            }
        }
    }

    /// The objects of the next job for an OST; None if there are none, or it has enough to do.
    fn next_destroys(&mut self, ost: OstIndex) -> Option<Vec<Fid>> {
        let window = self.destroying.entry(ost).or_default();
        let mut objects = Vec::new();
        if window.jobs < JOBS_MAX {
            // From where it stands to the end, then once over what was listed before it meanwhile.
            for after in [window.after, Fid::NONE] {
                let listed = self.state.pending_destroys(ost, after);
                let free = listed.filter(|object| !window.under_way.contains(object));
                objects.extend(free.take(DESTROY_OBJECTS_MAX));
                if !objects.is_empty() {
                    break;
                }
            }
        }
        let Some(&last) = objects.last() else {
            if window.jobs == 0 {
                self.destroying.remove(&ost);
            }
            return None;
        };
        window.after = last;
        window.under_way.extend(&objects);
        window.jobs += 1;
        Some(objects)
    }

    /// Whether so much waits to be destroyed that nothing new is made: at every OST that would get it.
    pub(crate) const fn destroys_are_behind(&self) -> bool {
        self.placement.all_behind
    }

    /// The list of an OST got longer or shorter: it may be behind now, or have caught up.
    pub(crate) fn note_destroys(&mut self, ost: OstIndex) {
        let most = (self.limits.destroys_pending_max / self.osts.len().max(1)).max(1);
        let listed = self.state.destroys_pending_of(ost);
        let behind = &mut self.placement.behind;
        let changed = if listed > most {
            behind.insert(ost)
        } else {
            listed <= most - most / 8 && behind.remove(&ost)
        };
        if changed {
            self.arrange_placement();
        }
    }

    /// An OST destroyed what a job named.
    pub(crate) fn destroyed(&mut self, ost: OstIndex, objects: Vec<Fid>) {
        let destroyed = ObjectsDestroyed { ost, objects: List(objects) };
        self.submit_own(Operation::ObjectsDestroyed(destroyed), Task::Destroyed);
    }

    /// The list of an OST got shorter by what it destroyed.
    pub(crate) fn struck_off(&mut self, destroyed: &ObjectsDestroyed) {
        if let Some(window) = self.destroying.get_mut(&destroyed.ost) {
            for object in &destroyed.objects.0 {
                window.under_way.remove(object);
            }
            window.jobs -= 1;
        }
        self.background.room.note_destroyed(destroyed.ost, destroyed.objects.0.len() as u64);
        self.note_destroys(destroyed.ost);
        self.note_space_moves(&[destroyed.ost]);
        self.background.destroys_due.insert(destroyed.ost);
    }
}
