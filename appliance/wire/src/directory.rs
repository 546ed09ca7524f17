//! Directory pages: the payload of a ReadDirectory reply.

use sheen_types::{Attributes, Fid, FileKind, Name};

use crate::{
    codec::{DecodeError, Decoder, Encoder, Field},
    lease::LeaseGrant,
};

/// One entry of a directory page.
///
/// Order is by `cookie`. The cookie of an entry never changes while the entry lives: it is made of the
/// name's hash, so iteration is stable under concurrent change. Cookies are 3..2^63; 1 and 2 stand for
/// `.` and `..`, which the client adds itself, 0 for the start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirectoryEntry {
    /// Position of the entry; reading goes on *behind* it.
    pub cookie: u64,
    /// The inode.
    pub fid: Fid,
    /// Its kind.
    pub kind: FileKind,
    /// The name.
    pub name: Name,
    /// With ReadDirectory's `plus`: attributes and what may be cached of the inode.
    pub plus: Option<(Attributes, LeaseGrant)>,
}

impl Field for DirectoryEntry {
    fn encode(&self, out: &mut Encoder<'_>) {
        self.cookie.encode(out);
        self.fid.encode(out);
        self.kind.encode(out);
        self.name.encode(out);
        self.plus.is_some().encode(out);
        if let Some((attributes, lease)) = &self.plus {
            attributes.encode(out);
            lease.encode(out);
        }
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            cookie: Field::decode(input)?,
            fid: Field::decode(input)?,
            kind: Field::decode(input)?,
            name: Field::decode(input)?,
            plus: if bool::decode(input)? {
                Some((Field::decode(input)?, Field::decode(input)?))
            } else {
                None
            },
        })
    }
}
