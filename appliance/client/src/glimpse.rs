//! Size, time and space of a file out of its objects.

use std::{collections::BTreeMap, sync::Arc};

use sheen_ports::Cancel;
use sheen_types::{Attributes, Errno, Layout, OstIndex};
use sheen_wire::{
    Opcode,
    fields::List,
    object::{GLIMPSE_MAX, GlimpseReply, ObjectAttributes, ObjectGlimpse},
};

use crate::{
    client::Client, inode::Known, layout::has_any_object, object_request::ObjectRequest,
    pool::Piece, statistics::count,
};

/// (component, stripe) of an object.
type Place = (usize, usize);

impl Client {
    /// Asks the objects. `without_objects` is the answer for a file that has none.
    pub(crate) fn glimpse(
        self: &Arc<Self>,
        layout: &Layout,
        without_objects: Known,
        cancel: &Cancel,
    ) -> Result<Known, Errno> {
        if !has_any_object(layout) {
            return Ok(without_objects);
        }
        count(&self.counters.glimpses);
        let mut by_target: BTreeMap<OstIndex, Vec<(Place, sheen_types::Fid)>> = BTreeMap::new();
        for (component, c) in layout.components.iter().enumerate() {
            for (stripe, object) in c.objects.iter().enumerate() {
                by_target.entry(object.ost).or_default().push(((component, stripe), object.object));
            }
        }
        let mut pieces = Vec::new();
        for (ost, objects) in by_target {
            for batch in objects.chunks(GLIMPSE_MAX) {
                let (client, batch, cancel) = (self.clone(), batch.to_vec(), cancel.clone());
                let work = move || client.glimpse_batch(ost, &batch, &cancel);
                pieces.push(Piece::new(ost, work));
            }
        }
        let mut known = Known { blocks: Some(0), ..Known::default() };
        for answers in self.pool.run_all(pieces) {
            for (place, object) in answers? {
                merge(&mut known, layout, place, &object);
            }
        }
        Ok(known)
    }

    fn glimpse_batch(
        self: &Arc<Self>,
        ost: OstIndex,
        batch: &[(Place, sheen_types::Fid)],
        cancel: &Cancel,
    ) -> Answers {
        let objects = List(batch.iter().map(|(_, object)| *object).collect());
        let body = ObjectGlimpse { ost, objects };
        let request = ObjectRequest::new(ost, Opcode::ObjectGlimpse, &body);
        let reply: GlimpseReply = self.ask_object(request, cancel)?.decode()?;
        self.slow_targets.forget(ost);
        if reply.objects.0.len() != batch.len() {
            return Err(Errno::EPROTO);
        }
        Ok(batch.iter().map(|(place, _)| *place).zip(reply.objects.0).collect())
    }
}

type Answers = Result<Vec<(Place, ObjectAttributes)>, Errno>;

fn merge(
    known: &mut Known,
    layout: &Layout,
    (component, stripe): Place,
    object: &ObjectAttributes,
) {
    if !object.exists {
        return;
    }
    if object.size > 0 {
        let last = layout.components[component].file_offset(stripe, object.size - 1);
        known.size = known.size.max(last.saturating_add(1));
    }
    known.blocks = known.blocks.map(|blocks| blocks + object.blocks);
    known.mtime = known.mtime.max(object.mtime);
}

/// What `stat` shows: the MDT's attributes with what the objects know. They know the time of the last write, which counts unless
/// the MDT decided that time later: because it was set, or the size was.
pub(crate) fn merged(mut attributes: Attributes, known: &Known) -> Attributes {
    attributes.size = known.size;
    attributes.blocks = known.blocks.unwrap_or_else(|| known.size.div_ceil(512));
    if known.mtime > attributes.mtime_set {
        attributes.mtime = known.mtime;
    }
    attributes.ctime = attributes.ctime.max(known.mtime);
    attributes
}

#[cfg(test)]
pub(crate) mod test {
    use sheen_types::{Component, Fid, FileKind, StripeObject, Timespec};

    use super::*;

    pub(crate) fn attributes() -> Attributes {
        let at = |seconds| Timespec { seconds, nanoseconds: 0 };
        Attributes {
            fid: Fid::new(Fid::NORMAL_SEQUENCE_FIRST, 1),
            kind: FileKind::Regular,
            permissions: 0o644,
            nlink: 1,
            uid: 0,
            gid: 0,
            projid: 0,
            rdev: 0,
            size: 7,
            blocks: 1,
            atime: at(10),
            mtime: at(20),
            ctime: at(30),
            btime: at(10),
            flags: 0,
            mtime_set: at(20),
            atime_set: at(20),
            has_xattrs: false,
        }
    }

    fn object(size: u64, seconds: i64) -> ObjectAttributes {
        ObjectAttributes {
            exists: true,
            size,
            blocks: size.div_ceil(512),
            mtime: Timespec { seconds, nanoseconds: 0 },
        }
    }

    #[test]
    fn the_object_that_reaches_furthest_tells_the_size() {
        let stripe = StripeObject { object: Fid::NONE, generation: 0, ost: OstIndex(0) };
        let component = Component {
            start: 0,
            end: u64::MAX,
            stripe_bytes: 65536,
            stripe_count: 2,
            objects: vec![stripe; 2],
        };
        let layout = Layout { generation: 0, components: vec![component] };
        let mut known = Known { blocks: Some(0), ..Known::default() };
        merge(&mut known, &layout, (0, 0), &object(65536 + 10, 5));
        merge(&mut known, &layout, (0, 1), &object(65536, 9));
        assert_eq!(known.size, 2 * 65536 + 10);
        assert_eq!(known.mtime.seconds, 9);
        merge(&mut known, &layout, (0, 1), &object(65536 + 1, 5));
        assert_eq!(known.size, 3 * 65536 + 1);
    }

    #[test]
    fn the_last_write_tells_the_mtime_unless_that_was_set_later() {
        let mut known = Known { size: 9, blocks: Some(8), ..Known::default() };
        let shown = |known: &Known| {
            let shown = merged(attributes(), known);
            (shown.size, shown.mtime.seconds, shown.ctime.seconds)
        };
        known.mtime.seconds = 20;
        assert_eq!(shown(&known), (9, 20, 30), "set by hand since");
        known.mtime.seconds = 25;
        assert_eq!(shown(&known), (9, 25, 30), "its mode was changed since, or a name");
        known.mtime.seconds = 31;
        assert_eq!(shown(&known), (9, 31, 31));
    }
}
