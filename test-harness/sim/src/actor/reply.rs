//! How a request of an actor ends.

use sheen_types::{Errno, Fid, Tick};
use sheen_wire::{Frame, lease::LeaseGrant};

use super::{Actor, Held, Origin, Told, cache::FileCache};
use crate::{
    answer::{Ended, grants},
    operation::{Operation, Target},
};

/// Longest pause before a busy server is asked again, which doubles so often; and before a full one is.
const BUSY_PAUSE_NANOSECONDS: u64 = 4_000_000;
const BUSY_DOUBLINGS: u32 = 5;
const FULL_PAUSE_NANOSECONDS: u64 = 60_000_000;

impl Actor {
    pub(super) fn answered(
        &mut self,
        id: u64,
        target: Target,
        frame: &Frame,
        body: &[u8],
        payload: Vec<u8>,
    ) {
        let Some(mut flight) = self.flights.remove(&id) else { return };
        let status = Errno(-frame.status);
        let of_ost = target == Target::Ost;
        let sick = of_ost && status == Errno::EIO;
        // A program that reserves space is told; what was accepted waits until there is some.
        let full = of_ost && status == Errno::ENOSPC && flight.origin != Origin::Program;
        self.io_errors += u64::from(sick);
        self.no_space += u64::from(full);
        if status == Errno::EAGAIN || sick || full {
            // Not carried out: but an earlier sending may have been, so the number stays.
            let busy = BUSY_PAUSE_NANOSECONDS << flight.refusals.min(BUSY_DOUBLINGS);
            let most = if full { FULL_PAUSE_NANOSECONDS } else { busy };
            flight.refusals += 1;
            flight.not_before = Tick(self.clock.tick().0 + 1 + self.chance.below(most));
            flight.call = None;
            self.flights.insert(id, flight);
            return;
        }
        if status == Errno::ENOTCONN {
            flight.call = None;
            self.flights.insert(id, flight);
            return self.lose(target);
        }
        if let Some(debt) = flight.operation.ost().and_then(|ost| self.debts.get_mut(&ost)) {
            debt.commit(frame.committed);
        }
        let ended = Ended {
            operation: flight.operation,
            resent: flight.resent,
            status: frame.status,
            body: body.to_vec(),
            payload,
            transaction: frame.transaction.0,
            committed: frame.committed,
        };
        self.learn(&ended);
        if flight.origin == Origin::Program {
            self.told.push_back(Told::Ended(ended));
        } else {
            let Ended { operation, payload, .. } = ended;
            self.cache_answered(flight.origin, &operation, (frame, payload));
        }
    }

    /// Notes the leases and opens an answer gives.
    fn learn(&mut self, ended: &Ended) {
        for (fid, grant) in grants(ended) {
            self.grant(fid, &grant);
        }
        if ended.status != 0 {
            return;
        }
        match &ended.operation {
            Operation::Create(create, _) if create.open != 0 => {
                self.opens.insert(create.fid, create.open == 2);
            }
            Operation::Open(open) => {
                self.opens.insert(open.fid, open.write);
            }
            Operation::Close(fid) => {
                self.opens.remove(fid);
            }
            _ => {}
        }
    }

    fn grant(&mut self, fid: Fid, grant: &LeaseGrant) {
        // A grant leaves out what is asked back; it is held until it is given back.
        let asked_back = self.caches.get(&fid).map_or(0, FileCache::asked_back);
        let held = self.held.entry(fid).or_default();
        if grant.sequence > held.sequence {
            let LeaseGrant { read_bits, write_bits, sequence } = *grant;
            let read_bits = read_bits | held.read_bits & asked_back;
            let write_bits = write_bits | held.write_bits & asked_back;
            *held = Held { read_bits, write_bits, sequence };
            self.changed.insert(fid);
        }
    }
}
