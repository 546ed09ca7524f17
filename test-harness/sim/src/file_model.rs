//! What the content of a file must be.
//!
//! A file is changed by clients that hold the lease on its content, one at a time; what is accepted from a program is the
//! content from then on, for everybody, whatever the node goes through. Only a client that is gone, or was evicted, may
//! have taken changes with it that were not durable yet, and the first who reads the file finds out which.
//!
//! A node that loses its power may keep a later change and lose an earlier one, and a client may be lost while it sends its
//! changes again to a node that kept all of them: an earlier one is then carried out once more after later ones. So each
//! piece of a block between two edges of changes may be as any of them left it; but a change reaches a piece as a whole or
//! not at all.

use std::collections::BTreeSet;

use sheen_types::BLOCK_BYTES;

use crate::operation::{Edit, pattern};

/// Bytes of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content(pub Vec<u8>);

/// The content of a file.
#[derive(Clone, Debug, Default)]
pub struct FileModel {
    /// Survives everything.
    durable: Content,
    /// After each change accepted since, in order.
    later: Vec<(Edit, Content)>,
    /// Who made them.
    writer: Option<usize>,
    /// Its writer is gone.
    uncertain: Option<Uncertain>,
}

/// What may have become of the changes of a writer that is gone.
#[derive(Clone, Debug)]
struct Uncertain {
    /// What each piece may be.
    contents: Vec<Content>,
    /// Sizes there may be.
    sizes: BTreeSet<u64>,
    /// Where changes begin and end: between two of them, each reaches all or nothing.
    edges: BTreeSet<u64>,
}

fn bytes(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

impl Content {
    /// Changes it.
    pub fn apply(&mut self, edit: Edit) {
        let size = edit.size_after(self.0.len() as u64);
        self.0.resize(bytes(size), 0);
        match edit {
            Edit::Write { offset, length, tag, .. } => {
                let end = bytes(offset + length);
                self.0[bytes(offset)..end].copy_from_slice(&pattern(tag, offset, length));
            }
            Edit::Punch { offset, length, .. } => {
                let end = bytes(offset + length).min(self.0.len());
                self.0[bytes(offset).min(end)..end].fill(0);
            }
            Edit::Truncate { .. } | Edit::Allocate { .. } => {}
        }
    }

    /// Whether it has these bytes at `start`, with zeros behind the end.
    fn has(&self, start: usize, bytes: &[u8]) -> bool {
        let (own, behind) = bytes.split_at(self.0.len().saturating_sub(start).min(bytes.len()));
        self.0.get(start..start + own.len()).unwrap_or_default() == own
            && behind.iter().all(|&byte| byte == 0)
    }
}

impl Edit {
    fn size_after(self, size: u64) -> u64 {
        match self {
            Self::Write { offset, length, .. } => size.max(offset + length),
            Self::Truncate { size } => size,
            Self::Punch { offset, length, extend: true, .. } => size.max(offset + length),
            Self::Punch { .. } | Self::Allocate { .. } => size,
        }
    }

    /// Where bytes it changes lie beside others.
    const fn edges(self) -> [u64; 2] {
        match self {
            Self::Write { offset, length, .. }
            | Self::Punch { offset, length, .. }
            | Self::Allocate { offset, length } => [offset, offset + length],
            Self::Truncate { size } => [size, size],
        }
    }
}

impl Uncertain {
    fn new(durable: &Content) -> Self {
        let size = durable.0.len() as u64;
        Self {
            contents: vec![durable.clone()],
            sizes: BTreeSet::from([size]),
            edges: BTreeSet::new(),
        }
    }

    /// Each of these changes, with the content after it, may have been carried out in any order and more than once.
    fn add(&mut self, changes: &[(Edit, Content)]) {
        self.contents.extend(changes.iter().map(|(_, content)| content.clone()));
        self.edges.extend(changes.iter().flat_map(|(edit, _)| edit.edges()));
        let mut before = 0;
        while self.sizes.len() > before {
            before = self.sizes.len();
            let sizes = &self.sizes;
            let after = |(edit, _): &(Edit, Content)| -> Vec<u64> {
                sizes.iter().map(|&size| edit.size_after(size)).collect()
            };
            let after: Vec<u64> = changes.iter().flat_map(after).collect();
            self.sizes.extend(after);
        }
    }

    /// Whether one of the contents has these bytes at `start`.
    fn has(&self, start: usize, bytes: &[u8]) -> bool {
        self.contents.iter().any(|content| content.has(start, bytes))
    }

    /// First byte of a piece that is none of the contents.
    fn wrong(&self, found: &[u8]) -> Option<usize> {
        let blocks = (0..found.len()).step_by(BLOCK_BYTES);
        let edges = self.edges.iter().map(|&edge| bytes(edge)).filter(|&edge| edge < found.len());
        let starts: Vec<usize> = BTreeSet::from_iter(blocks.chain(edges)).into_iter().collect();
        let ends = starts.iter().skip(1).copied().chain([found.len()]);
        let mut pieces = starts.iter().copied().zip(ends);
        pieces.find(|&(start, end)| !self.has(start, &found[start..end])).map(|(start, _)| start)
    }
}

impl FileModel {
    /// What everybody sees.
    #[must_use]
    pub fn current(&self) -> &Content {
        self.later.last().map_or(&self.durable, |(_, content)| content)
    }

    /// Client `writer`, which holds the lease, accepted a change.
    pub fn accept(&mut self, writer: usize, edit: Edit) {
        let mut content = self.current().clone();
        content.apply(edit);
        self.later.push((edit, content));
        self.writer = Some(writer);
    }

    /// Everything its writer `client` changed is durable.
    pub fn settle(&mut self, client: usize) {
        if self.writer == Some(client)
            && let Some((_, content)) = self.later.drain(..).next_back()
        {
            self.durable = content;
        }
    }

    /// Client `gone` takes with it what was not durable. Returns whether that can be anything.
    pub fn lose_writer(&mut self, gone: usize) -> bool {
        if self.writer != Some(gone) || self.later.is_empty() {
            return false;
        }
        let uncertain = self.uncertain.get_or_insert_with(|| Uncertain::new(&self.durable));
        uncertain.add(&self.later);
        self.writer = None;
        true
    }

    /// Whether `client` must make durable what it finds: changes of another one may be lost later.
    #[must_use]
    pub fn is_doubtful(&self, client: usize) -> bool {
        self.uncertain.is_some() || self.other_writer(client).is_some()
    }

    /// Another client than this one, if it left changes that are not durable.
    #[must_use]
    pub fn other_writer(&self, client: usize) -> Option<usize> {
        self.writer.filter(|&writer| writer != client && !self.later.is_empty())
    }

    /// Whether this is what it must be. Says whether changes that were not durable turn out to be lost.
    ///
    /// # Errors
    /// Where it is wrong.
    pub fn check(&mut self, found: &[u8]) -> Result<bool, String> {
        let Some(uncertain) = self.uncertain.take() else {
            return if self.current().0 == found { Ok(false) } else { Err(self.difference(found)) };
        };
        let sizes = &uncertain.sizes;
        if !sizes.contains(&(found.len() as u64)) {
            let size = found.len();
            return Err(format!("size {size} of a lost writer, of {sizes:?}; {}", self.steps()));
        }
        if let Some(at) = uncertain.wrong(found) {
            return Err(format!(
                "what a lost writer left at {at} is none of {} contents; {}",
                uncertain.contents.len(),
                self.steps()
            ));
        }
        let lost = self.current().0 != found;
        self.later.clear();
        self.durable = Content(found.to_vec());
        Ok(lost)
    }

    fn steps(&self) -> String {
        let steps: Vec<&Edit> = self.later.iter().map(|(edit, _)| edit).collect();
        let size = self.durable.0.len();
        format!("durable size {size}, then {steps:?} of {:?}", self.writer)
    }

    fn difference(&self, found: &[u8]) -> String {
        let expected = &self.current().0;
        let at = expected.iter().zip(found).position(|(a, b)| a != b);
        let (size, wanted) = (found.len(), expected.len());
        format!("size {size}, expected {wanted}; first other byte {at:?}; {}", self.steps())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const WRITER: usize = 1;

    fn write(offset: u64, length: u64, tag: u64) -> Edit {
        Edit::Write { offset, length, tag, durable: false }
    }

    fn model(edits: &[Edit]) -> FileModel {
        let mut model = FileModel::default();
        for &edit in edits {
            model.accept(WRITER, edit);
        }
        model
    }

    #[test]
    fn what_a_living_client_wrote_is_there() {
        let mut model = model(&[write(0, 5000, 1), write(100, 200, 2)]);
        assert!(model.check(&pattern(1, 0, 5000)).is_err());
        let last = model.current().0.clone();
        assert_eq!(model.check(&last), Ok(false));
    }

    #[test]
    fn a_lost_writer_takes_single_blocks_back_but_not_what_was_durable() {
        let mut mixed = pattern(1, 0, 8192);
        mixed[..4096].copy_from_slice(&pattern(2, 0, 4096));
        let edits = [write(0, 8192, 1), write(0, 8192, 2)];
        let lost = |settled: usize| {
            let mut model = model(&edits[..settled]);
            model.settle(WRITER);
            edits[settled..].iter().for_each(|&edit| model.accept(WRITER, edit));
            assert!(!model.lose_writer(WRITER + 1), "somebody else");
            let loses = model.lose_writer(WRITER);
            assert_eq!((loses, model.is_doubtful(9)), (settled < 2, settled < 2));
            model
        };
        assert_eq!(lost(1).check(&mixed), Ok(true));
        assert!(lost(2).check(&mixed).is_err());
        assert_eq!(lost(2).check(&pattern(2, 0, 8192)), Ok(false));
        assert!(lost(1).check(&pattern(3, 0, 8192)).is_err());
        assert!(lost(1).check(&[]).is_err());
        assert_eq!(lost(0).check(&[]), Ok(true));
    }

    #[test]
    fn a_lost_writer_leaves_any_part_of_its_changes_and_early_ones_sent_again_over_later_ones() {
        let lost = |edits: &[Edit]| {
            let mut model = model(edits);
            assert!(model.lose_writer(WRITER));
            model
        };
        let edits = [write(8250, 8003, 1), write(8192, 8192, 2)];
        let mut again = Content::default();
        [edits[1], edits[0]].into_iter().for_each(|edit| again.apply(edit));
        assert_eq!(lost(&edits).check(&again.0), Ok(true));
        // Not a part of one.
        again.0[8192..8200].copy_from_slice(&[0; 8]);
        assert!(lost(&edits).check(&again.0).is_err());
        again.0[8192..8250].fill(0);
        assert_eq!(lost(&edits).check(&again.0), Ok(true), "without the second");
        // A node lost the first and kept the second.
        let edits = [write(8250, 8003, 1), write(8192, 100, 2)];
        let mut second = Content::default();
        second.apply(edits[1]);
        assert_eq!(lost(&edits).check(&second.0), Ok(true));
        // Sizes.
        let edits = [write(0, 9000, 3), Edit::Truncate { size: 100 }, write(4000, 1000, 4)];
        let mut again = Content::default();
        [edits[0], edits[1], edits[2], edits[0], edits[1]]
            .into_iter()
            .for_each(|edit| again.apply(edit));
        assert_eq!(lost(&edits).check(&again.0), Ok(true));
        again.apply(edits[0]);
        assert_eq!(lost(&edits).check(&again.0), Ok(true));
        again.0.truncate(5001);
        assert!(lost(&edits).check(&again.0).is_err());
    }

    #[test]
    fn what_was_found_once_stays() {
        let mut model = model(&[write(0, 4096, 1)]);
        model.settle(WRITER);
        model.accept(WRITER, Edit::Truncate { size: 10 });
        assert!(model.lose_writer(WRITER));
        assert_eq!(model.check(&pattern(1, 0, 4096)), Ok(true));
        assert!(model.check(&pattern(1, 0, 10)).is_err());
    }
}
