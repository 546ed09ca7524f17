//! How a request of an actor ends.

use sheen_types::{Errno, Fid, Tick};
use sheen_wire::{Frame, lease::LeaseGrant};

use super::{Actor, Flight, Held};
use crate::{
    answer::{Ended, grants},
    operation::{Operation, Target},
};

/// Longest pause before a busy server is asked again.
const BUSY_PAUSE_NANOSECONDS: u64 = 4_000_000;

impl Actor {
    pub(super) fn answered(
        &mut self,
        call: u64,
        target: Target,
        frame: &Frame,
        body: &[u8],
        payload: Vec<u8>,
    ) {
        let is_of = |flight: &Flight| flight.call == Some(call);
        let probe = self.probe.as_ref().is_some_and(is_of);
        if !probe && !self.flight.as_ref().is_some_and(is_of) {
            return;
        }
        let place = if probe { &mut self.probe } else { &mut self.flight };
        let Some(mut flight) = place.take() else { return };
        let status = Errno(-frame.status);
        let sick = target == Target::Ost && status == Errno::EIO;
        self.io_errors += u64::from(sick);
        if status == Errno::EAGAIN || sick {
            // Not carried out: but an earlier sending may have been, so the number stays.
            let pause = 1 + self.chance.below(BUSY_PAUSE_NANOSECONDS);
            flight.not_before = Tick(self.clock.tick().0 + pause);
            flight.call = None;
            *place = Some(flight);
            return;
        }
        if status == Errno::ENOTCONN {
            flight.call = None;
            *place = Some(flight);
            return self.lose(target);
        }
        let ended = Ended {
            operation: flight.operation,
            resent: flight.resent,
            probe,
            status: frame.status,
            body: body.to_vec(),
            payload,
            transaction: frame.transaction.0,
            committed: frame.committed,
        };
        self.learn(&ended);
        self.ended = Some(ended);
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
        let held = self.held.entry(fid).or_default();
        if grant.sequence > held.sequence {
            let LeaseGrant { read_bits, write_bits, sequence } = *grant;
            *held = Held { read_bits, write_bits, sequence };
            self.changed.insert(fid);
        }
    }
}
