//! What a history asks of its store: changes, repacks, syncs, picked by chance or given.

use crate::{
    adapter::{self, Call},
    history::{Failure, History, OBJECTS, REPACK_BLOCKS_MAX, Witness},
    promise::{Status, Step},
    reference::Change,
};

impl History {
    /// Asks for a change picked by chance.
    ///
    /// # Errors
    /// The witness's.
    pub fn change(&mut self, witness: &mut impl Witness) -> Result<(), Failure> {
        let object = self.chance.below(OBJECTS);
        let first = self.chance.below(self.plan.cells);
        let end = first + 1 + self.chance.below(self.plan.write_cells);
        // Whether a hole in an object that is being made alters anything depends on who comes first.
        let extend = self.chance.one_in(2) || !self.model.objects[object].surely_exists();
        let change = match self.chance.below(16) {
            0..=9 => Change::Write { first, end },
            10 => Change::Truncate { size: if extend { first } else { first / 4 } },
            11 => Change::Hole { first, end, extend },
            12 => Change::Zero { first, end, extend },
            13 => Change::Allocate { first, end, keep_size: extend },
            14 => Change::Destroy,
            _ => Change::Write { first: end, end: end + 1 },
        };
        let durable = self.chance.one_in(5) || change == Change::Destroy;
        self.ask(object, change, durable, witness)
    }

    /// Asks for a change.
    ///
    /// # Errors
    /// The witness's.
    pub fn ask(
        &mut self,
        object: usize,
        change: Change,
        durable: bool,
        witness: &mut impl Witness,
    ) -> Result<(), Failure> {
        self.tag += 1;
        self.request += 1;
        let call = Call {
            request: self.request,
            object,
            change,
            tag: self.tag,
            durable,
            packs: self.plan.packs,
        };
        self.note(|| {
            format!("request {}: object {object} {change:?}, durable {durable}", call.request)
        });
        if !self.call(|store, images, commands| adapter::ask(store, &call, images, commands)) {
            return Ok(());
        }
        let Call { request, tag, .. } = call;
        self.model.ask(object, Step { request, tag, change, status: Status::Asked });
        if durable {
            self.covers.insert(request, Vec::new());
        }
        if matches!(change, Change::Destroy | Change::Truncate { .. } | Change::Hole { .. }) {
            self.frugal.push(request);
        }
        self.carry_out(witness)
    }

    /// Asks for a range to be stored anew: nothing that is promised changes.
    ///
    /// # Errors
    /// The witness's.
    ///
    /// # Panics
    /// When it is of more than [`REPACK_BLOCKS_MAX`] blocks.
    pub fn repack(
        &mut self,
        object: usize,
        first: usize,
        blocks: usize,
        witness: &mut impl Witness,
    ) -> Result<(), Failure> {
        assert!(blocks <= REPACK_BLOCKS_MAX, "a small range");
        self.request += 1;
        let request = self.request;
        self.note(|| format!("request {request}: object {object} repack {blocks} at {first}"));
        let range = (first, blocks);
        if self.call(|store, images, commands| {
            adapter::repack(store, (request, object), range, images, commands)
        }) {
            self.repacks.insert(request);
        }
        self.carry_out(witness)
    }

    /// Asks for a sync.
    ///
    /// # Errors
    /// The witness's.
    pub fn sync(&mut self, witness: &mut impl Witness) -> Result<(), Failure> {
        self.request += 1;
        let request = self.request;
        self.note(|| format!("request {request}: sync"));
        if self.call(|store, _, commands| adapter::sync(store, request, commands)) {
            self.covers.insert(request, self.completed.clone());
        }
        self.carry_out(witness)
    }

    /// Something, by chance.
    ///
    /// # Errors
    /// The witness's.
    pub fn turn(&mut self, witness: &mut impl Witness) -> Result<(), Failure> {
        if self.chance.one_in(self.plan.checkpoints) {
            self.checkpoint();
        }
        match self.chance.below(11) {
            0..=2 => self.change(witness)?,
            3 if self.plan.packs && self.chance.one_in(3) => {
                let object = self.chance.below(OBJECTS);
                let (first, blocks) = (self.chance.below(6), 1 + self.chance.below(12));
                self.repack(object, first, blocks, witness)?;
            }
            3 => self.sync(witness)?,
            _ => {
                self.step(witness)?;
            }
        }
        if self.chance.one_in(4) {
            self.mark(witness)?;
        }
        if !self.chance.one_in(4) {
            self.pump(witness)?;
        }
        Ok(())
    }
}
