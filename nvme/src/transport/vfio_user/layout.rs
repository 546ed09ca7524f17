//! How a fixed payload is declared: fields at explicit offsets, little-endian, no padding.
//!
//! The specification says "all data is in the endianness of the host system" `[vfio-user §Protocol Specification]`.
//! Hosts of this project are little-endian, so the bytes are the same and a test can state them.

const _: () =
    assert!(cfg!(target_endian = "little"), "the wire is host-endian; this codec is little-endian");

/// An integer at a fixed place of a payload.
pub(super) trait Scalar: Sized {
    /// Appends the value, least significant byte first.
    fn put(self, out: &mut Vec<u8>);
    /// Reads the value at `offset`; None when it does not lie within `bytes`.
    fn get(bytes: &[u8], offset: usize) -> Option<Self>;
}

macro_rules! scalars {
    ($($kind:ty),*) => {$(
        impl Scalar for $kind {
            fn put(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            fn get(bytes: &[u8], offset: usize) -> Option<Self> {
                let field = bytes.get(offset..)?.first_chunk()?;
                Some(Self::from_le_bytes(*field))
            }
        }
    )*};
}

scalars!(u16, u32, u64);

/// Declares a payload: its size, and each field with its offset. The offsets are checked to leave no gap.
macro_rules! layout {
    ($(#[$doc:meta])* pub struct $name:ident: $bytes:literal {
        $($(#[$field_doc:meta])* $offset:literal $field:ident: $kind:ty,)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name { $($(#[$field_doc])* pub $field: $kind,)* }

        impl $name {
            /// Size on the wire.
            pub const BYTES: usize = $bytes;

            /// Appends the payload.
            pub fn encode(&self, out: &mut Vec<u8>) {
                $($crate::transport::vfio_user::layout::Scalar::put(self.$field, out);)*
            }

            /// Reads the payload from the front of `bytes`; None when they are too few.
            #[must_use]
            pub fn decode(bytes: &[u8]) -> Option<Self> {
                use $crate::transport::vfio_user::layout::Scalar;
                Some(Self { $($field: <$kind as Scalar>::get(bytes, $offset)?,)* })
            }
        }

        const _: () = {
            let mut end = 0;
            $(
                assert!($offset == end, "a field stands where the one before it ends");
                end += size_of::<$kind>();
            )*
            assert!(end == $bytes, "the last field ends where the payload does");
        };
    };
}

pub(super) use layout;
