//! What the content of an object may be.
//!
//! An object has one writer, with one request on its way. Content is kept as it was when last certain to survive power loss,
//! and as it was after each change acknowledged since. A living node, and one whose process was killed, shows the last; a node that
//! lost power shows for each block any of them, and as size what some of the changes in their order leave behind.

use std::collections::BTreeSet;

use sheen_types::BLOCK_BYTES;

use crate::operation::{Edit, pattern};

/// Content of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content(pub Vec<u8>);

/// An object's content through crashes.
#[derive(Clone, Debug, Default)]
pub struct FileModel {
    /// Survives everything.
    durable: Content,
    /// After each change acknowledged since, in order.
    later: Vec<(Edit, Content)>,
    /// Whether the file had a name and lost it.
    pub is_unlinked: bool,
    /// Sent and not answered.
    in_flight: Option<Edit>,
}

fn bytes(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

impl Content {
    fn apply(&mut self, edit: Edit) {
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
            Edit::Truncate { .. } => {}
        }
    }

    /// Block number `block`, with zeros behind the end.
    fn block(&self, block: usize) -> [u8; BLOCK_BYTES] {
        let mut whole = [0; BLOCK_BYTES];
        let start = (block * BLOCK_BYTES).min(self.0.len());
        let end = (start + BLOCK_BYTES).min(self.0.len());
        whole[..end - start].copy_from_slice(&self.0[start..end]);
        whole
    }
}

impl Edit {
    fn size_after(self, size: u64) -> u64 {
        match self {
            Self::Write { offset, length, .. } => size.max(offset + length),
            Self::Truncate { size } => size,
            Self::Punch { offset, length, extend: true, .. } => size.max(offset + length),
            Self::Punch { .. } => size,
        }
    }
}

impl FileModel {
    /// What a living node shows.
    #[must_use]
    pub fn current(&self) -> &Content {
        self.later.last().map_or(&self.durable, |(_, content)| content)
    }

    /// A change is sent.
    pub fn begin(&mut self, edit: Edit) {
        self.in_flight = Some(edit);
    }

    /// The change on its way was acknowledged.
    pub fn acknowledge(&mut self) {
        let Some(edit) = self.in_flight.take() else { return };
        let mut content = self.current().clone();
        content.apply(edit);
        self.later.push((edit, content));
        if matches!(edit, Edit::Write { durable: true, .. }) {
            self.synced();
        }
    }

    /// Everything acknowledged survives power loss.
    pub fn synced(&mut self) {
        if let Some((_, content)) = self.later.drain(..).next_back() {
            self.durable = content;
        }
    }

    /// Whether what a living node shows is right; nothing is on its way.
    ///
    /// # Errors
    /// Where it is wrong.
    pub fn check(&self, found: &[u8]) -> Result<(), String> {
        if self.current().0 == found { Ok(()) } else { Err(self.difference(found)) }
    }

    /// The node's process was killed and it came back: what it shows now is taken over.
    ///
    /// # Errors
    /// Where it is wrong.
    pub fn survive_kill(&mut self, found: &[u8]) -> Result<(), String> {
        if self.current().0 == found {
            return Ok(());
        }
        let Some(edit) = self.in_flight else { return Err(self.difference(found)) };
        let mut content = self.current().clone();
        content.apply(edit);
        if content.0 != found {
            return Err(self.difference(found));
        }
        self.later.push((edit, content));
        Ok(())
    }

    /// The node lost power and came back: what it shows now is taken over. Returns whether something was lost.
    ///
    /// # Errors
    /// Where it is wrong.
    pub fn survive_power_loss(&mut self, found: &[u8]) -> Result<bool, String> {
        let mut contents = vec![self.durable.clone()];
        let mut sizes = BTreeSet::from([self.durable.0.len() as u64]);
        for (edit, content) in &self.later {
            contents.push(content.clone());
            grow_sizes(&mut sizes, *edit);
        }
        if let Some(edit) = self.in_flight {
            let mut content = self.current().clone();
            content.apply(edit);
            contents.push(content);
            grow_sizes(&mut sizes, edit);
        }
        if !sizes.contains(&(found.len() as u64)) {
            let size = found.len();
            return Err(format!("size {size} after power loss, of {sizes:?}; {}", self.steps()));
        }
        for (number, block) in found.chunks(BLOCK_BYTES).enumerate() {
            if !contents.iter().any(|content| content.block(number)[..block.len()] == *block) {
                return Err(format!(
                    "block {number} after power loss is none of its {} contents; {}",
                    contents.len(),
                    self.steps()
                ));
            }
        }
        let lost = self.current().0 != found;
        self.later.clear();
        self.durable = Content(found.to_vec());
        Ok(lost)
    }

    fn steps(&self) -> String {
        let steps: Vec<&Edit> = self.later.iter().map(|(edit, _)| edit).collect();
        let size = self.durable.0.len();
        format!("durable size {size}, then {steps:?}, in flight {:?}", self.in_flight)
    }

    fn difference(&self, found: &[u8]) -> String {
        let expected = &self.current().0;
        let at = expected.iter().zip(found).position(|(a, b)| a != b);
        let (size, wanted) = (found.len(), expected.len());
        format!("size {size}, expected {wanted}; first other byte {at:?}; {}", self.steps())
    }
}

fn grow_sizes(sizes: &mut BTreeSet<u64>, edit: Edit) {
    let after: Vec<u64> = sizes.iter().map(|&size| edit.size_after(size)).collect();
    sizes.extend(after);
}

#[cfg(test)]
mod test {
    use super::*;

    fn write(offset: u64, length: u64, tag: u64, durable: bool) -> Edit {
        Edit::Write { offset, length, tag, durable }
    }

    fn model(edits: &[Edit]) -> FileModel {
        let mut model = FileModel::default();
        for &edit in edits {
            model.begin(edit);
            model.acknowledge();
        }
        model
    }

    #[test]
    fn a_killed_process_loses_nothing_it_acknowledged() {
        let mut model = model(&[write(0, 5000, 1, false), write(100, 200, 2, false)]);
        let first = pattern(1, 0, 5000);
        assert!(model.survive_kill(&first).is_err());
        let last = model.current().0.clone();
        assert_eq!(model.survive_kill(&last), Ok(()));
    }

    #[test]
    fn lost_power_takes_single_blocks_back_but_not_what_was_synced() {
        let mut mixed = pattern(1, 0, 8192);
        mixed[..4096].copy_from_slice(&pattern(2, 0, 4096));
        let edits = [write(0, 8192, 1, true), write(0, 8192, 2, false)];
        assert_eq!(model(&edits).survive_power_loss(&mixed), Ok(true));
        let mut synced = model(&edits);
        synced.synced();
        assert!(synced.survive_power_loss(&mixed).is_err());
        assert_eq!(synced.survive_power_loss(&pattern(2, 0, 8192)), Ok(false));
        assert!(model(&edits).survive_power_loss(&pattern(3, 0, 8192)).is_err());
        assert!(model(&edits).survive_power_loss(&[]).is_err());
    }

    #[test]
    fn a_change_on_its_way_may_have_happened() {
        let mut model = model(&[write(0, 4096, 1, true)]);
        model.begin(Edit::Truncate { size: 10 });
        assert_eq!(model.clone().survive_kill(&pattern(1, 0, 10)), Ok(()));
        assert_eq!(model.clone().survive_kill(&pattern(1, 0, 4096)), Ok(()));
        assert!(model.survive_kill(&pattern(1, 0, 11)).is_err());
    }
}
