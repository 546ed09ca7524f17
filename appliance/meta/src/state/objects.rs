//! Objects of files: which OST gets them, what their ids are, which are to be destroyed.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use sheen_types::{Component, Errno, Fid, Layout, OstIndex, StripeObject, layout::STRIPES_MAX};

/// Bytes per stripe of the default layout.
const STRIPE_BYTES: u32 = 1 << 20;
/// The default layout, that of FSx for Lustre: ends of its components in bytes and their stripes.
const DEFAULT_COMPONENTS: [(u64, u16); 4] =
    [(100 << 20, 1), (10 << 30, 8), (100 << 30, 16), (u64::MAX, 32)];

/// Objects of the default layout when every component has them.
pub(crate) const DEFAULT_STRIPES: u64 = {
    let mut stripes = 0;
    let mut at = 0;
    while at < DEFAULT_COMPONENTS.len() {
        stripes += DEFAULT_COMPONENTS[at].1 as u64;
        at += 1;
    }
    stripes
};
/// An object in an encoded layout.
pub(crate) const STRIPE_BYTES_ENCODED: u64 = 16 + 4 + 4;
/// The default layout, encoded, with objects in its first component.
pub(crate) const NEW_LAYOUT_BYTES_MAX: usize = 121;

/// An OST as the state keeps it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ost {
    pub(crate) accepts_objects: bool,
    /// Sequence its objects are named from.
    pub(crate) sequence: u64,
    /// Last number used in the sequence.
    pub(crate) last_oid: u32,
    /// Objects to destroy, until the OST says they are gone. Changed by [`Objects`] alone, which
    /// counts them.
    pub(crate) destroyed: BTreeSet<Fid>,
}

/// Every OST, and the counters objects are placed by.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Objects {
    pub(crate) osts: BTreeMap<OstIndex, Ost>,
    /// Next sequence to hand out, to sessions and to OSTs.
    pub(crate) next_sequence: u64,
    /// Counts placements; where the next one starts.
    pub(crate) next_start: u64,
    /// Objects to destroy, of all OSTs.
    pub(crate) destroys_pending: usize,
}

impl Objects {
    pub(crate) const fn new() -> Self {
        Self {
            osts: BTreeMap::new(),
            next_sequence: Fid::NORMAL_SEQUENCE_FIRST,
            next_start: 0,
            destroys_pending: 0,
        }
    }

    pub(crate) const fn take_sequence(&mut self) -> u64 {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        sequence
    }

    fn accepting(&self) -> Vec<OstIndex> {
        let accepting = self.osts.iter().filter(|(_, ost)| ost.accepts_objects);
        accepting.map(|(&index, _)| index).collect()
    }

    /// The layout of a new file, its first component with objects. Without OSTs it has no
    /// components; they come by [`Objects::instantiate`].
    pub(crate) fn new_layout(&mut self, placement: &[OstIndex]) -> Layout {
        let mut layout = Layout::default();
        // Without OSTs there is nothing to instantiate, and nothing is wrong yet.
        let _ = self.instantiate(&mut layout, &(0..1), placement);
        layout
    }

    /// Gives objects to every component that meets the range: on the OSTs of `placement` that take
    /// objects, or if there are none, on all that do. Returns whether the layout changed.
    ///
    /// # Errors
    /// `ENOSPC`: no OST takes objects.
    pub(crate) fn instantiate(
        &mut self,
        layout: &mut Layout,
        range: &Range<u64>,
        placement: &[OstIndex],
    ) -> Result<bool, Errno> {
        let &Range { start, end } = range;
        if is_instantiated(layout, start, end) {
            return Ok(false);
        }
        let chosen = self.chosen(placement);
        let everywhere = chosen.is_empty();
        let osts = if everywhere { self.accepting() } else { chosen };
        if osts.is_empty() {
            return Err(Errno::ENOSPC);
        }
        if layout.components.is_empty() {
            let accepting = self.osts.values().filter(|ost| ost.accepts_objects);
            layout.components = default_components(accepting.take(STRIPES_MAX).count());
        }
        let generation = layout.generation + 1;
        let mut chosen_start = 0;
        for component in &mut layout.components {
            if component.start < end && start < component.end && !component.is_instantiated() {
                // The number of stripes may still shrink: OSTs can have left since it was chosen.
                component.stripe_count = capped(component.stripe_count, osts.len());
                let start = if everywhere { self.take_start() } else { chosen_start };
                chosen_start += u64::from(component.stripe_count);
                let count = usize::from(component.stripe_count);
                component.objects = self.place(&osts, start, count, generation);
            }
        }
        layout.generation = generation;
        Ok(true)
    }

    /// Those of a placement that take objects, each once.
    fn chosen(&self, placement: &[OstIndex]) -> Vec<OstIndex> {
        let mut chosen = Vec::with_capacity(placement.len().min(STRIPES_MAX));
        for &index in placement.iter().take(STRIPES_MAX) {
            let accepts = self.osts.get(&index).is_some_and(|ost| ost.accepts_objects);
            if accepts && !chosen.contains(&index) {
                chosen.push(index);
            }
        }
        chosen
    }

    const fn take_start(&mut self) -> u64 {
        let start = self.next_start;
        self.next_start = self.next_start.wrapping_add(1);
        start
    }

    fn place(
        &mut self,
        osts: &[OstIndex],
        start: u64,
        count: usize,
        generation: u32,
    ) -> Vec<StripeObject> {
        let all = osts.len() as u64;
        (0..count as u64)
            .map(|stripe| {
                let at = usize::try_from((start % all + stripe) % all).unwrap_or(0);
                let ost = osts[at];
                StripeObject { object: self.name_object(ost), generation, ost }
            })
            .collect()
    }

    fn name_object(&mut self, index: OstIndex) -> Fid {
        let full = self.osts.get(&index).is_some_and(|ost| ost.last_oid >= Fid::SEQUENCE_WIDTH);
        let fresh = if full { Some(self.take_sequence()) } else { None };
        let Some(ost) = self.osts.get_mut(&index) else { return Fid::NONE };
        if let Some(sequence) = fresh {
            (ost.sequence, ost.last_oid) = (sequence, 0);
        }
        ost.last_oid += 1;
        Fid::new(ost.sequence, ost.last_oid)
    }

    /// Lists an object for destruction; returns whether its OST is known and did not list it yet.
    pub(crate) fn list_destroy(&mut self, index: OstIndex, object: Fid) -> bool {
        let added = self.osts.get_mut(&index).is_some_and(|ost| ost.destroyed.insert(object));
        self.destroys_pending += usize::from(added);
        added
    }

    /// Takes an object from the list; whether it was there.
    pub(crate) fn end_destroy(&mut self, index: OstIndex, object: Fid) -> bool {
        let removed = self.osts.get_mut(&index).is_some_and(|ost| ost.destroyed.remove(&object));
        self.destroys_pending -= usize::from(removed);
        removed
    }

    /// Adds an OST or changes whether it takes objects.
    pub(crate) fn register(&mut self, index: OstIndex, accepts_objects: bool) {
        if let Some(ost) = self.osts.get_mut(&index) {
            ost.accepts_objects = accepts_objects;
            return;
        }
        let sequence = self.take_sequence();
        let ost = Ost { accepts_objects, sequence, last_oid: 0, destroyed: BTreeSet::new() };
        self.osts.insert(index, ost);
    }
}

/// Has the objects that a layout got last carry the number of their file system: OSTs ask for it. What it had before stays named as it
/// was, for OSTs know it by that.
pub(crate) fn label_new(layout: &mut Layout, filesystem: u32) {
    let generation = layout.generation;
    let objects = layout.components.iter_mut().flat_map(|component| &mut component.objects);
    for stripe in objects.filter(|stripe| stripe.generation == generation) {
        stripe.object.ver = filesystem;
    }
}

/// Whether every component that meets `start..end` has objects.
pub(crate) fn is_instantiated(layout: &Layout, start: u64, end: u64) -> bool {
    let mut met = layout.components.iter().filter(|c| c.start < end && start < c.end);
    !layout.components.is_empty() && met.all(Component::is_instantiated)
}

fn default_components(osts: usize) -> Vec<Component> {
    let starts = [0].into_iter().chain(DEFAULT_COMPONENTS.iter().map(|&(end, _)| end));
    starts
        .zip(DEFAULT_COMPONENTS)
        .map(|(start, (end, stripes))| Component {
            start,
            end,
            stripe_bytes: STRIPE_BYTES,
            stripe_count: capped(stripes, osts),
            objects: Vec::new(),
        })
        .collect()
}

fn capped(stripes: u16, osts: usize) -> u16 {
    u16::try_from(osts.min(STRIPES_MAX)).map_or(stripes, |most| stripes.min(most))
}

#[cfg(test)]
mod test {
    use super::*;

    fn objects(osts: u32) -> Objects {
        let mut objects = Objects::new();
        for index in 0..osts {
            objects.register(OstIndex(index), true);
        }
        objects
    }

    #[test]
    fn a_new_file_has_the_progressive_layout_with_its_first_component_ready() {
        let mut objects = objects(20);
        let layout = objects.new_layout(&[]);
        let shape: Vec<_> = layout
            .components
            .iter()
            .map(|c| (c.start, c.end, c.stripe_count, c.objects.len()))
            .collect();
        assert_eq!(
            shape,
            [
                (0, 100 << 20, 1, 1),
                (100 << 20, 10 << 30, 8, 0),
                (10 << 30, 100 << 30, 16, 0),
                (100 << 30, u64::MAX, 20, 0)
            ]
        );
        assert!(layout.components.iter().all(|c| c.stripe_bytes == 1 << 20));
    }

    #[test]
    fn layouts_are_as_long_as_their_constants_say() {
        use sheen_wire::Field;
        let mut objects = objects(64);
        let mut layout = objects.new_layout(&[]);
        assert_eq!(layout.to_vec().len(), NEW_LAYOUT_BYTES_MAX);
        assert_eq!(objects.instantiate(&mut layout, &(0..u64::MAX), &[]), Ok(true));
        let stripes = DEFAULT_STRIPES - u64::from(DEFAULT_COMPONENTS[0].1);
        let grown = stripes * STRIPE_BYTES_ENCODED;
        assert_eq!(layout.to_vec().len() as u64, NEW_LAYOUT_BYTES_MAX as u64 + grown);
    }

    #[test]
    fn files_start_on_one_ost_after_the_other_and_stripes_on_different_ones() {
        let mut objects = objects(3);
        let starts: Vec<u32> =
            (0..6).map(|_| objects.new_layout(&[]).components[0].objects[0].ost.0).collect();
        assert_eq!(starts, [0, 1, 2, 0, 1, 2]);
        let mut layout = objects.new_layout(&[]);
        assert_eq!(objects.instantiate(&mut layout, &(200 << 20..201 << 20), &[]), Ok(true));
        assert_eq!(layout.generation, 2);
        let mut osts: Vec<u32> = layout.components[1].objects.iter().map(|o| o.ost.0).collect();
        osts.sort_unstable();
        assert_eq!(osts, [0, 1, 2]);
        assert!(!layout.components[2].is_instantiated());
        assert_eq!(objects.instantiate(&mut layout, &(0..10 << 30), &[]), Ok(false));
        assert_eq!(layout.generation, 2);
    }

    #[test]
    fn without_osts_a_file_waits_for_its_layout() {
        let mut objects = objects(0);
        let mut layout = objects.new_layout(&[]);
        assert_eq!(layout, Layout::default());
        assert_eq!(objects.instantiate(&mut layout, &(0..1), &[]), Err(Errno::ENOSPC));
        objects.register(OstIndex(4), true);
        assert_eq!(objects.instantiate(&mut layout, &(0..1), &[]), Ok(true));
        assert_eq!(layout.components[0].objects[0].ost, OstIndex(4));
    }

    #[test]
    fn an_ost_that_takes_nothing_gets_nothing() {
        let mut objects = objects(2);
        objects.register(OstIndex(0), false);
        for _ in 0..4 {
            assert_eq!(objects.new_layout(&[]).components[0].objects[0].ost, OstIndex(1));
        }
        assert_eq!(objects.new_layout(&[]).components[3].stripe_count, 1);
    }

    #[test]
    fn a_full_sequence_is_followed_by_a_new_one_and_no_id_comes_twice() {
        let mut objects = objects(1);
        let first = objects.osts[&OstIndex(0)].sequence;
        objects.osts.get_mut(&OstIndex(0)).unwrap().last_oid = Fid::SEQUENCE_WIDTH - 1;
        let ids: Vec<Fid> =
            (0..3).map(|_| objects.new_layout(&[]).components[0].objects[0].object).collect();
        assert_eq!(ids[0], Fid::new(first, Fid::SEQUENCE_WIDTH));
        assert_eq!(ids[1], Fid::new(first + 1, 1));
        assert_eq!(ids[2], Fid::new(first + 1, 2));
    }

    #[test]
    fn objects_lie_where_the_entry_says_and_its_osts_take_turns_over_components() {
        let mut objects = objects(20);
        let chosen: Vec<OstIndex> = (5..15).map(OstIndex).collect();
        let mut layout = objects.new_layout(&chosen[3..4]);
        assert_eq!(layout.components[0].objects[0].ost, OstIndex(8));
        assert_eq!(layout.components[3].stripe_count, 20, "all that take objects count");
        assert_eq!(objects.instantiate(&mut layout, &(0..20 << 30), &chosen), Ok(true));
        let osts = |number: usize| -> Vec<u32> {
            layout.components[number].objects.iter().map(|object| object.ost.0).collect()
        };
        assert_eq!(osts(1), [5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(osts(2), [13, 14, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(objects.next_start, 0);
    }

    #[test]
    fn of_a_placement_only_what_takes_objects_counts_and_without_any_all_do() {
        let mut objects = objects(3);
        objects.register(OstIndex(1), false);
        let placement = [1, 9, 2, 2].map(OstIndex);
        let layout = objects.new_layout(&placement);
        assert_eq!(layout.components[0].objects[0].ost, OstIndex(2));
        let layout = objects.new_layout(&placement[..2]);
        assert_eq!(layout.components[0].objects[0].ost, OstIndex(0));
        assert_eq!(objects.next_start, 1);
    }
}
