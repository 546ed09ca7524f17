//! How each kind of field is written.

use sheen_types::{
    AttributeName, Attributes, ClientId, Component, Compression, Epoch, Errno, Fid, FileKind,
    Layout, Name, OstIndex, StripeObject, Tag, Timespec, TransactionNumber, Xid,
    layout::{COMPONENTS_MAX, STRIPE_BYTES_UNIT, STRIPES_MAX},
};

use crate::codec::{DecodeError, Decoder, Encoder, Field};

macro_rules! integers {
    ($($int:ty),*) => {$(
        impl Field for $int {
            fn encode(&self, out: &mut Encoder<'_>) { out.bytes(&self.to_le_bytes()); }

            fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
                let bytes = input.bytes(size_of::<$int>())?;
                Ok(Self::from_le_bytes(bytes.try_into().map_err(|_| DecodeError::Short)?))
            }
        }
    )*};
}
integers!(u8, u16, u32, u64, i32, i64);

/// One byte, 0 or 1.
impl Field for bool {
    fn encode(&self, out: &mut Encoder<'_>) {
        u8::from(*self).encode(out);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        match u8::decode(input)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Value("flag")),
        }
    }
}

macro_rules! wrappers {
    ($($name:ident),*) => {$(
        impl Field for $name {
            fn encode(&self, out: &mut Encoder<'_>) { self.0.encode(out); }

            fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
                Ok(Self(Field::decode(input)?))
            }
        }
    )*};
}
wrappers!(ClientId, Epoch, OstIndex, Xid, Tag, TransactionNumber, Errno);

/// 16 bytes: sequence, object number, version.
impl Field for Fid {
    fn encode(&self, out: &mut Encoder<'_>) {
        self.seq.encode(out);
        self.oid.encode(out);
        self.ver.encode(out);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            seq: Field::decode(input)?,
            oid: Field::decode(input)?,
            ver: Field::decode(input)?,
        })
    }
}

/// 12 bytes: seconds, nanoseconds below 1e9.
impl Field for Timespec {
    fn encode(&self, out: &mut Encoder<'_>) {
        self.seconds.encode(out);
        self.nanoseconds.encode(out);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let time = Self { seconds: Field::decode(input)?, nanoseconds: Field::decode(input)? };
        if time.nanoseconds >= 1_000_000_000 {
            return Err(DecodeError::Value("nanoseconds"));
        }
        Ok(time)
    }
}

/// Writes one byte of length and the bytes, at most 255.
fn encode_short(bytes: &[u8], out: &mut Encoder<'_>) {
    u8::try_from(bytes.len()).unwrap_or(u8::MAX).encode(out);
    out.bytes(bytes);
}

/// Reads one byte of length and so many bytes.
fn decode_short<'a>(input: &mut Decoder<'a>) -> Result<&'a [u8], DecodeError> {
    let length = usize::from(u8::decode(input)?);
    input.bytes(length)
}

/// One byte of length and that many bytes; the rules of [`Name`] hold.
impl Field for Name {
    fn encode(&self, out: &mut Encoder<'_>) {
        encode_short(self.as_bytes(), out);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Self::new(decode_short(input)?).map_err(|_| DecodeError::Value("name"))
    }
}

/// One byte of length and that many bytes; the rules of [`AttributeName`] hold.
impl Field for AttributeName {
    fn encode(&self, out: &mut Encoder<'_>) {
        encode_short(self.as_bytes(), out);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Self::new(decode_short(input)?).map_err(|_| DecodeError::Value("attribute name"))
    }
}

/// Four bytes of length and that many bytes.
impl Field for Vec<u8> {
    fn encode(&self, out: &mut Encoder<'_>) {
        u32::try_from(self.len()).unwrap_or(u32::MAX).encode(out);
        out.bytes(self);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let length = u32::decode(input)?;
        Ok(input.bytes(usize::try_from(length).map_err(|_| DecodeError::Short)?)?.to_vec())
    }
}

/// One byte: 0 for none, or 1 and the value.
impl<T: Field> Field for Option<T> {
    fn encode(&self, out: &mut Encoder<'_>) {
        self.is_some().encode(out);
        if let Some(value) = self {
            value.encode(out);
        }
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        if bool::decode(input)? { T::decode(input).map(Some) } else { Ok(None) }
    }
}

/// A fixed number of bytes, as they are.
impl<const N: usize> Field for [u8; N] {
    fn encode(&self, out: &mut Encoder<'_>) {
        out.bytes(self);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        input.bytes(N)?.try_into().map_err(|_| DecodeError::Short)
    }
}

/// What a client proves with that a session is its own: made by the MDT, told in the answer to Connect, shown to each OST
/// service. `Debug` does not show it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AttachKey(pub [u8; 32]);

impl AttachKey {
    /// No session has it.
    pub const NONE: Self = Self([0; 32]);
}

impl std::fmt::Debug for AttachKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AttachKey")
    }
}

impl Field for AttachKey {
    fn encode(&self, out: &mut Encoder<'_>) {
        self.0.encode(out);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Field::decode(input).map(Self)
    }
}

/// Two bytes of count and that many values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct List<T>(pub Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Field> Field for List<T> {
    fn encode(&self, out: &mut Encoder<'_>) {
        u16::try_from(self.0.len()).unwrap_or(u16::MAX).encode(out);
        for value in &self.0 {
            value.encode(out);
        }
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let count = usize::from(u16::decode(input)?);
        // Each value takes at least a byte, so the count cannot make us reserve more than we hold.
        let mut values = Vec::with_capacity(count.min(input.remaining()));
        for _ in 0..count {
            values.push(T::decode(input)?);
        }
        Ok(Self(values))
    }
}

/// One byte, the `DT_*` number.
impl Field for FileKind {
    fn encode(&self, out: &mut Encoder<'_>) {
        (*self as u8).encode(out);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Self::from_number(u8::decode(input)?).ok_or(DecodeError::Value("file kind"))
    }
}

/// One byte: 0 none, 1 LZ4, 2 zstd.
impl Field for Compression {
    fn encode(&self, out: &mut Encoder<'_>) {
        self.number().encode(out);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Self::from_number(u8::decode(input)?).ok_or(DecodeError::Value("compression"))
    }
}

impl Field for Attributes {
    fn encode(&self, out: &mut Encoder<'_>) {
        self.fid.encode(out);
        self.kind.encode(out);
        self.permissions.encode(out);
        self.nlink.encode(out);
        self.uid.encode(out);
        self.gid.encode(out);
        self.projid.encode(out);
        self.rdev.encode(out);
        self.size.encode(out);
        self.blocks.encode(out);
        self.atime.encode(out);
        self.mtime.encode(out);
        self.ctime.encode(out);
        self.btime.encode(out);
        self.flags.encode(out);
        self.mtime_set.encode(out);
        self.atime_set.encode(out);
        self.has_xattrs.encode(out);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let attributes = Self {
            fid: Field::decode(input)?,
            kind: Field::decode(input)?,
            permissions: Field::decode(input)?,
            nlink: Field::decode(input)?,
            uid: Field::decode(input)?,
            gid: Field::decode(input)?,
            projid: Field::decode(input)?,
            rdev: Field::decode(input)?,
            size: Field::decode(input)?,
            blocks: Field::decode(input)?,
            atime: Field::decode(input)?,
            mtime: Field::decode(input)?,
            ctime: Field::decode(input)?,
            btime: Field::decode(input)?,
            flags: Field::decode(input)?,
            mtime_set: Field::decode(input)?,
            atime_set: Field::decode(input)?,
            has_xattrs: Field::decode(input)?,
        };
        if attributes.permissions > 0o7777 {
            return Err(DecodeError::Value("permissions"));
        }
        Ok(attributes)
    }
}

impl Field for StripeObject {
    fn encode(&self, out: &mut Encoder<'_>) {
        self.object.encode(out);
        self.generation.encode(out);
        self.ost.encode(out);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            object: Field::decode(input)?,
            generation: Field::decode(input)?,
            ost: Field::decode(input)?,
        })
    }
}

impl Field for Component {
    fn encode(&self, out: &mut Encoder<'_>) {
        self.start.encode(out);
        self.end.encode(out);
        self.stripe_bytes.encode(out);
        self.stripe_count.encode(out);
        u8::from(self.is_instantiated()).encode(out);
        for object in &self.objects {
            object.encode(out);
        }
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let start = u64::decode(input)?;
        let end = u64::decode(input)?;
        let stripe_bytes = u32::decode(input)?;
        let stripe_count = u16::decode(input)?;
        let instantiated = bool::decode(input)?;
        if start >= end {
            return Err(DecodeError::Value("component range"));
        }
        if stripe_bytes == 0 || !stripe_bytes.is_multiple_of(STRIPE_BYTES_UNIT) {
            return Err(DecodeError::Value("stripe size"));
        }
        if stripe_count == 0 || usize::from(stripe_count) > STRIPES_MAX {
            return Err(DecodeError::Value("stripe count"));
        }
        let count = if instantiated { usize::from(stripe_count) } else { 0 };
        let objects =
            (0..count).map(|_| StripeObject::decode(input)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { start, end, stripe_bytes, stripe_count, objects })
    }
}

impl Field for Layout {
    fn encode(&self, out: &mut Encoder<'_>) {
        self.generation.encode(out);
        u8::try_from(self.components.len()).unwrap_or(u8::MAX).encode(out);
        for component in &self.components {
            component.encode(out);
        }
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let generation = u32::decode(input)?;
        let count = usize::from(u8::decode(input)?);
        if count > COMPONENTS_MAX {
            return Err(DecodeError::Value("component count"));
        }
        let components =
            (0..count).map(|_| Component::decode(input)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { generation, components })
    }
}
