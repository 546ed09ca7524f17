//! The objects of the fake server.

use std::collections::BTreeMap;

use sheen_ports::Call;
use sheen_types::{Component, Fid, Layout, OstIndex, StripeObject, Timespec, TransactionNumber};
use sheen_wire::{Field, Opcode, fields::List, object::*};

use crate::fake::{Answer, State, object};

const STRIPE_BYTES: u32 = 64 << 10;

/// What the OSTs keep when they lose their power.
#[derive(Default)]
pub(crate) struct Power {
    /// Writes are lost until they are flushed; else nothing ever is.
    pub(crate) volatile: bool,
    /// Power losses so far.
    losses: u64,
    /// Changes of each OST, and how many of them are durable.
    numbers: BTreeMap<OstIndex, (u64, u64)>,
    /// Objects as they were at the last flush of their OST.
    durable: BTreeMap<Fid, (Vec<u8>, Timespec)>,
}

/// The OST a request names.
pub(crate) fn ost_of(call: &Call) -> OstIndex {
    OstIndex(call.body.first_chunk().map_or(0, |index| u32::from_le_bytes(*index)))
}

impl State {
    pub(crate) fn layout_of(&self, fid: Fid) -> Layout {
        let Some(ost) = self.narrow.get(&fid) else { return self.layout() };
        let object = Fid::new(Fid::NORMAL_SEQUENCE_FIRST + 10, fid.oid);
        let objects = vec![StripeObject { object, generation: 0, ost: *ost }];
        let component = Component {
            start: 0,
            end: u64::MAX,
            stripe_bytes: STRIPE_BYTES,
            stripe_count: 1,
            objects,
        };
        Layout { generation: 1, components: vec![component] }
    }

    pub(crate) fn layout(&self) -> Layout {
        let object = |number: u32| StripeObject {
            object: object(number),
            generation: 0,
            ost: OstIndex(number),
        };
        let objects = if self.instantiated { vec![object(0), object(1)] } else { Vec::new() };
        let component = Component {
            start: 0,
            end: u64::MAX,
            stripe_bytes: STRIPE_BYTES,
            stripe_count: 2,
            objects,
        };
        Layout { generation: u32::from(self.instantiated), components: vec![component] }
    }

    pub(crate) fn lose_power(&mut self) {
        self.power.losses += 1;
        self.power.numbers.clear();
        self.objects = self.power.durable.clone();
    }

    /// The content that survives a loss of power, of object `number`.
    pub(crate) fn durable(&self, number: u32) -> &[u8] {
        self.power.durable.get(&object(number)).map_or(&[], |content| &content.0)
    }

    fn flush(&mut self, ost: OstIndex) {
        let numbers = self.power.numbers.entry(ost).or_default();
        numbers.1 = numbers.0;
        let name = object(ost.0);
        if let Some(content) = self.objects.get(&name) {
            self.power.durable.insert(name, content.clone());
        }
    }

    /// Incarnation, transaction and committed of a reply.
    pub(crate) fn stamp(&mut self, call: &Call, status: i32) -> (u64, TransactionNumber, u64) {
        let (opcode, ost) = (call.frame.opcode, ost_of(call));
        if opcode == Opcode::Attach {
            return (self.power.losses + 1, TransactionNumber(0), 0);
        }
        if !(0x60..0x70).contains(&opcode.number()) {
            return (u64::from(self.server_epoch), TransactionNumber(0), 0);
        }
        let changes = matches!(
            opcode,
            Opcode::ObjectWrite
                | Opcode::ObjectTruncate
                | Opcode::ObjectPunch
                | Opcode::ObjectAllocate
        );
        let numbers = self.power.numbers.entry(ost).or_default();
        let mut transaction = 0;
        if changes && status == 0 {
            numbers.0 += 1;
            transaction = numbers.0;
        }
        if !self.power.volatile {
            self.flush(ost);
        }
        let committed = self.power.numbers.get(&ost).map_or(0, |numbers| numbers.1);
        (self.power.losses + 1, TransactionNumber(transaction), committed)
    }

    pub(crate) fn serve_object(&mut self, call: &Call, payload: &[u8]) -> Answer {
        match call.frame.opcode {
            Opcode::ObjectWrite => {
                let request = ObjectWrite::from_bytes(&call.body).unwrap();
                let start = usize::try_from(request.offset).unwrap();
                let content = &mut self.objects.entry(request.object).or_default();
                let size = content.0.len().max(start + payload.len());
                content.0.resize(size, 0);
                content.0[start..start + payload.len()].copy_from_slice(payload);
                let mtime = self.time_of_change(request.mtime);
                let content = &mut self.objects.entry(request.object).or_default();
                content.1 = mtime;
                let blocks = size.div_ceil(512) as u64;
                (0, WriteReply { size: size as u64, blocks, mtime }.to_vec(), Vec::new())
            }
            Opcode::ObjectRead => {
                let request = ObjectRead::from_bytes(&call.body).unwrap();
                let empty = Vec::new();
                let content = self.objects.get(&request.object).map_or(&empty, |c| &c.0);
                let start = usize::try_from(request.offset).unwrap().min(content.len());
                let end = (start + request.length as usize).min(content.len());
                let reply = ReadReply { size: content.len() as u64 };
                (0, reply.to_vec(), content[start..end].to_vec())
            }
            Opcode::ObjectTruncate => {
                let request = ObjectTruncate::from_bytes(&call.body).unwrap();
                let content = &mut self.objects.entry(request.object).or_default();
                content.0.resize(usize::try_from(request.size).unwrap(), 0);
                let mtime = self.time_of_change(request.mtime);
                (0, WriteReply { size: request.size, blocks: 0, mtime }.to_vec(), Vec::new())
            }
            Opcode::ObjectSync => {
                self.flush(ost_of(call));
                (0, Vec::new(), Vec::new())
            }
            Opcode::ObjectPunch | Opcode::ObjectAllocate => {
                let mtime = self.time_of_change(Timespec::ZERO);
                (0, WriteReply { size: 0, blocks: 0, mtime }.to_vec(), Vec::new())
            }
            Opcode::ObjectGlimpse => {
                let request = ObjectGlimpse::from_bytes(&call.body).unwrap();
                let objects = request.objects.0.iter().map(|object| self.glimpse(*object));
                (0, GlimpseReply { objects: List(objects.collect()) }.to_vec(), Vec::new())
            }
            Opcode::MakeRoom => (0, self.make_room().to_vec(), Vec::new()),
            _ => (0, Vec::new(), Vec::new()),
        }
    }

    fn time_of_change(&mut self, given: Timespec) -> Timespec {
        let now = self.now();
        if given == Timespec::ZERO { now } else { given }
    }

    /// The server's time: later than all it told.
    pub(crate) fn now(&mut self) -> Timespec {
        self.nanoseconds += 1;
        Timespec { seconds: 4_000_000_000, nanoseconds: self.nanoseconds }
    }

    fn glimpse(&self, object: Fid) -> ObjectAttributes {
        let found = self.objects.get(&object);
        ObjectAttributes {
            exists: found.is_some(),
            size: found.map_or(0, |(content, _)| content.len() as u64),
            blocks: 0,
            mtime: found.map_or(Timespec::ZERO, |(_, mtime)| *mtime),
        }
    }

    /// Writes to object `number` as another client would.
    pub(crate) fn write_as_another(&mut self, number: u32, content: &[u8]) {
        let mtime = self.now();
        self.objects.insert(object(number), (content.to_vec(), mtime));
        self.instantiated = true;
    }
}
