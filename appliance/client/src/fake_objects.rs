//! The objects of the fake server.

use sheen_ports::Call;
use sheen_types::{Fid, Timespec};
use sheen_wire::{Field, Opcode, fields::List, object::*};

use crate::fake::{Answer, State, object};

impl State {
    pub(crate) fn serve_object(&mut self, call: &Call, payload: &[u8]) -> Answer {
        match call.frame.opcode {
            Opcode::ObjectWrite => {
                let request = ObjectWrite::from_bytes(&call.body).unwrap();
                let start = usize::try_from(request.offset).unwrap();
                let content = &mut self.objects.entry(request.object).or_default();
                let size = content.0.len().max(start + payload.len());
                content.0.resize(size, 0);
                content.0[start..start + payload.len()].copy_from_slice(payload);
                content.1 = request.mtime;
                let reply = WriteReply { size: size as u64, blocks: size.div_ceil(512) as u64 };
                (0, reply.to_vec(), Vec::new())
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
                (0, WriteReply { size: request.size, blocks: 0 }.to_vec(), Vec::new())
            }
            Opcode::ObjectAllocate | Opcode::ObjectPunch => {
                (0, WriteReply { size: 0, blocks: 0 }.to_vec(), Vec::new())
            }
            Opcode::ObjectGlimpse => {
                let request = ObjectGlimpse::from_bytes(&call.body).unwrap();
                let objects = request.objects.0.iter().map(|object| self.glimpse(*object));
                (0, GlimpseReply { objects: List(objects.collect()) }.to_vec(), Vec::new())
            }
            _ => (0, Vec::new(), Vec::new()),
        }
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
        self.nanoseconds += 1;
        let mtime = Timespec { seconds: 4_000_000_000, nanoseconds: self.nanoseconds };
        self.objects.insert(object(number), (content.to_vec(), mtime));
        self.instantiated = true;
    }
}
