//! How reply slots are written.

use sheen_types::Errno;
use sheen_wire::{DecodeError, Decoder, Encoder, Field};

use crate::{Reply, SessionReply, state::session::Slot};

impl Field for Slot {
    fn encode(&self, out: &mut Encoder<'_>) {
        self.xid.encode(out);
        self.transaction.encode(out);
        match &self.result {
            Ok(reply) => {
                Errno(0).encode(out);
                reply.encode(out);
            }
            Err(errno) => errno.encode(out),
        }
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let xid = Field::decode(input)?;
        let transaction = Field::decode(input)?;
        let errno = Errno::decode(input)?;
        let result = match errno.0 {
            0 => Ok(Reply::decode(input)?),
            1.. => Err(errno),
            i32::MIN..=-1 => return Err(DecodeError::Value("errno")),
        };
        Ok(Self { xid, transaction, result })
    }
}

impl Field for Reply {
    fn encode(&self, out: &mut Encoder<'_>) {
        match *self {
            Self::Done => 0_u8.encode(out),
            Self::ServerEpoch(epoch) => {
                1_u8.encode(out);
                epoch.encode(out);
            }
            Self::Session(SessionReply { client, epoch, root, slots, resumed }) => {
                2_u8.encode(out);
                client.encode(out);
                epoch.encode(out);
                root.encode(out);
                slots.encode(out);
                resumed.encode(out);
            }
            Self::Sequence(sequence) => {
                3_u8.encode(out);
                sequence.encode(out);
            }
            Self::Filesystem(root) => {
                4_u8.encode(out);
                root.encode(out);
            }
            Self::Entry { fid, created } => {
                5_u8.encode(out);
                fid.encode(out);
                created.encode(out);
            }
            Self::Unlinked { fid, nlink } => {
                6_u8.encode(out);
                fid.encode(out);
                nlink.encode(out);
            }
            Self::Renamed { moved, replaced } => {
                7_u8.encode(out);
                moved.encode(out);
                replaced.encode(out);
            }
            Self::Reaped { inodes, finished } => {
                8_u8.encode(out);
                inodes.encode(out);
                finished.encode(out);
            }
        }
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(match u8::decode(input)? {
            0 => Self::Done,
            1 => Self::ServerEpoch(Field::decode(input)?),
            2 => Self::Session(SessionReply {
                client: Field::decode(input)?,
                epoch: Field::decode(input)?,
                root: Field::decode(input)?,
                slots: Field::decode(input)?,
                resumed: Field::decode(input)?,
            }),
            3 => Self::Sequence(Field::decode(input)?),
            4 => Self::Filesystem(Field::decode(input)?),
            5 => Self::Entry { fid: Field::decode(input)?, created: Field::decode(input)? },
            6 => Self::Unlinked { fid: Field::decode(input)?, nlink: Field::decode(input)? },
            7 => Self::Renamed { moved: Field::decode(input)?, replaced: Field::decode(input)? },
            8 => Self::Reaped { inodes: Field::decode(input)?, finished: Field::decode(input)? },
            _ => return Err(DecodeError::Value("reply")),
        })
    }
}
